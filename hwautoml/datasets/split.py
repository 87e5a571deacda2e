"""One part (train, val, test) of a data set, and how batches come out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from hwautoml.datasets.pixels import PixelStore
from hwautoml.errors import InvalidValueError

#: Images (N, C, H, W) and a generator on the CPU, to a changed float32 copy.
Augmentation = Callable[[torch.Tensor, torch.Generator | None], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Split:
    """``labels`` (num_images, ...) as of the task; image ``i`` of the split is image ``indices[i]`` of the store."""

    name: str
    labels: torch.Tensor
    indices: torch.Tensor = field(repr=False)
    pixels: PixelStore = field(repr=False)

    @property
    def num_images(self) -> int:
        return len(self.indices)

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        generator: torch.Generator | None = None,
        augment: Augmentation | None = None,
        device: torch.device | str = "cpu",
        resolution: int | None = None,
        drop_last: bool = False,
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One pass: float32 images (N, C, H, W) valued 0..255, channels last, and labels (N, ...), on ``device``.

        Images are not normalised: the model does that inside its graph. They are resized before they are
        augmented. ``generator`` (on the CPU) decides order and augmentation.

        Raises:
            InvalidValueError: ``batch_size`` or ``resolution`` is below 1.
        """
        if batch_size < 1 or (resolution is not None and resolution < 1):
            raise InvalidValueError(f"batch_size={batch_size} and resolution={resolution} must be at least 1")
        order = torch.randperm(self.num_images, generator=generator) if shuffle else torch.arange(self.num_images)
        chunks = [chunk for chunk in order.split(batch_size) if len(chunk) == batch_size or not drop_last]
        return self._batches(chunks, generator, augment, torch.device(device), resolution)

    def _batches(
        self,
        chunks: list[torch.Tensor],
        generator: torch.Generator | None,
        augment: Augmentation | None,
        device: torch.device,
        resolution: int | None,
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        labels = self.labels.to(device)
        stream = self.pixels.stream((self.indices[chunk] for chunk in chunks), device)
        for chunk, stored in zip(chunks, stream, strict=True):
            images = resize_uint8(stored.permute(0, 3, 1, 2), resolution)
            images = augment(images, generator) if augment is not None else images.float()
            yield images, labels[chunk.to(device)]

    def raw(self, indices: NDArray[np.integer] | list[int], resolution: int | None = None) -> NDArray[np.uint8]:
        """uint8 (len(indices), resolution, resolution, C): exactly what a deployed model is fed."""
        stored = torch.from_numpy(self.pixels.read(self.indices.numpy()[np.asarray(indices, dtype=np.int64)]))
        resized = resize_uint8(stored.permute(0, 3, 1, 2), resolution)
        return np.ascontiguousarray(resized.permute(0, 2, 3, 1).numpy())

    def images_uint8(self, resolution: int | None = None) -> NDArray[np.uint8]:
        """uint8 (num_images, resolution, resolution, C), all of them in memory at once."""
        return self.raw(np.arange(self.num_images), resolution)


def resize_uint8(images: torch.Tensor, resolution: int | None) -> torch.Tensor:
    """uint8 (N, C, H, W) to (N, C, resolution, resolution), antialiased bilinear, whole values as in an 8-bit image.

    The same rounding on every device; None or the images' own size returns them as they are.
    """
    if resolution is None or images.shape[-2:] == (resolution, resolution):
        return images
    size = [resolution, resolution]
    if images.device.type == "cpu":  # an integer kernel, several times faster than through floats
        return functional.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
    resized = functional.interpolate(images.float(), size, mode="bilinear", antialias=True, align_corners=False)
    return resized.round_().clamp_(0, 255).to(torch.uint8)
