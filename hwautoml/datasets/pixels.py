"""Where a data set's pixels are: in memory, or in files that are decoded when a batch needs them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hwautoml.core.pixel_rule import PixelRule
from hwautoml.datasets.decoding import CHUNK, NUM_WORKERS, read_image
from hwautoml.datasets.sources import FileSource
from hwautoml.errors import DatasetError

NUM_BATCHES_AHEAD = 2


class PixelStore(ABC):
    """All images of a data set, uint8, one size, addressed by index."""

    shape: tuple[int, int, int, int]
    """(num_images, height, width, channels)"""

    @abstractmethod
    def stream(self, index_batches: Iterable[torch.Tensor], device: torch.device) -> Iterator[torch.Tensor]:
        """For each (batch,) int64 index tensor on the CPU: uint8 (batch, H, W, C) on ``device``."""

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(len(indices), H, W, C)"""
        (batch,) = self.stream([torch.from_numpy(np.ascontiguousarray(indices))], torch.device("cpu"))
        pixels: NDArray[np.uint8] = batch.numpy()
        return pixels


class MemoryPixels(PixelStore):
    """Pixels in one tensor (num_images, H, W, C), copied once to each other device that asks for them."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.shape = pixels.shape
        self._pixels = {torch.device("cpu"): torch.from_numpy(pixels)}

    def stream(self, index_batches: Iterable[torch.Tensor], device: torch.device) -> Iterator[torch.Tensor]:
        if device not in self._pixels:
            self._pixels[device] = self._pixels[torch.device("cpu")].to(device)
        pixels = self._pixels[device]
        for indices in index_batches:
            yield pixels.index_select(0, indices.to(device))  # far faster than pixels[indices] on busy cores


class StreamedPixels(PixelStore):
    """Files, decoded by a pool of threads a few batches ahead of their use.

    Raises, from ``stream``:
        DatasetError: a file that was readable when the set was loaded no longer is.
    """

    def __init__(
        self, source: FileSource, paths: tuple[str, ...], image_size: int, channels: int, rule: PixelRule
    ) -> None:
        self.shape = (len(paths), image_size, image_size, channels)
        self._source = source
        self._paths = paths
        self._rule = rule

    def stream(self, index_batches: Iterable[torch.Tensor], device: torch.device) -> Iterator[torch.Tensor]:
        waiting: deque[tuple[NDArray[np.uint8], list[Future[None]]]] = deque()
        pool = ThreadPoolExecutor(NUM_WORKERS)
        try:
            for indices in index_batches:
                waiting.append(self._submit(pool, indices.tolist()))
                if len(waiting) > NUM_BATCHES_AHEAD:
                    yield _collect(*waiting.popleft()).to(device)
            while waiting:
                yield _collect(*waiting.popleft()).to(device)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, pool: ThreadPoolExecutor, indices: list[int]) -> tuple[Any, list[Future[None]]]:
        batch = np.empty((len(indices), *self.shape[1:]), dtype=np.uint8)
        step = max(1, min(CHUNK, -(-len(indices) // (2 * NUM_WORKERS))))
        parts = [range(start, min(start + step, len(indices))) for start in range(0, len(indices), step)]
        return batch, [pool.submit(self._decode, batch, part, indices) for part in parts]

    def _decode(self, batch: NDArray[np.uint8], part: range, indices: list[int]) -> None:
        for position in part:
            path = self._paths[indices[position]]
            image, _ = read_image(self._source, path, self.shape[1], self.shape[3], self._rule)
            if isinstance(image, str):
                raise DatasetError(
                    f"{self._source.name_of(path)} can no longer be read: {image}",
                    fix="leave the images in place while a run lasts, then start it again",
                )
            batch[position] = image.pixels


def _collect(batch: NDArray[np.uint8], parts: list[Future[None]]) -> torch.Tensor:
    for part in parts:
        part.result()
    return torch.from_numpy(batch)
