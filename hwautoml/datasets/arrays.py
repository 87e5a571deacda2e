"""Images that come as arrays: an .npz file, or scikit-learn's built-in digits."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hwautoml.core.pixel_rule import PixelRule
from hwautoml.core.task import Labels, Task
from hwautoml.datasets.decoding import fit_image, map_chunks
from hwautoml.datasets.levels import find_levels, range_of, to_eight_bits
from hwautoml.datasets.safety import read_arrays, require_printable
from hwautoml.errors import DatasetError, MissingDependencyError

NPZ_FIX = "save it with numpy.savez(path, x=images, y=labels): x numbers (N, H, W) or (N, H, W, 1 or 3), y (N, ...)"
NUM_RANGED = 256


@dataclass(frozen=True, eq=False)
class LabelledArray:
    """``images`` (N, H, W, C) uint8, made so by ``rule``; ``labels`` (N, ...) of ``task``."""

    name: str
    images: NDArray[np.uint8]
    labels: Labels
    task: Task
    rule: PixelRule = field(default_factory=PixelRule)

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.task.outputs, self.images.shape)).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()[:16]


def load_digits_array(task: type[Task]) -> LabelledArray:
    """1,797 grey 8x8 handwritten digits; their values 0..16 are scaled to 0..255.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
        DatasetError: the digits are no labels of the task.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependencyError(
            "the built-in data set digits comes with scikit-learn, which is not installed",
            fix="pip install scikit-learn",
        ) from error
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    found, labels = task.from_labels(digits.target, "the labels of digits")
    return LabelledArray("digits", images, labels, found)


def load_npz(path: Path, task: type[Task]) -> LabelledArray:
    """``x`` (N, H, W) or (N, H, W, 1 or 3), numbers of any kind, ``y`` (N, ...) labels of the task.

    Raises:
        DatasetError: damaged, or any of the above does not hold.
    """
    arrays = read_arrays(path, ("x", "y"), NPZ_FIX)
    images, labels = arrays["x"], arrays["y"]
    require_printable(path, labels)
    return replace(labelled_array(str(path), images, labels, task), name=path.stem)


def labelled_array(origin: str, images: NDArray[Any], labels: Labels, task: type[Task]) -> LabelledArray:
    """``images`` (N, H, W) or (N, H, W, 1 or 3), ``labels`` (N, ...) of the task; ``origin`` names them in messages.

    Numbers other than uint8 are scaled by robust percentiles, but for fractions 0..1 and bytes 0..255 in a wider
    type, whose meaning is known.

    Raises:
        DatasetError: other shapes, no numbers, or no labels of the task.
    """
    images = _check_images(origin, images)
    if labels.shape[:1] != (len(images),):
        raise DatasetError(f"y in {origin} has shape {labels.shape}; x has {len(images)} images", fix=NPZ_FIX)
    found, converted = task.from_labels(labels, f"y in {origin}")
    if images.dtype == np.uint8:
        return LabelledArray(origin, images, converted, found)
    rule = PixelRule(_levels(images))
    assert rule.levels is not None
    scaled = np.empty(images.shape, dtype=np.uint8)
    for index, image in enumerate(images):
        scaled[index] = to_eight_bits(image, rule.levels)
    return LabelledArray(origin, scaled, converted, found, rule)


def _levels(images: NDArray[Any]) -> tuple[float, float]:
    spread = np.linspace(0, len(images) - 1, min(NUM_RANGED, len(images))).astype(int)
    ranges = [found for found in (range_of(images[index]) for index in spread) if found is not None]
    low, high = float(np.nanmin(images)), float(np.nanmax(images))
    for known in (1.0, 255.0):
        if low >= 0 and known / 2 < high <= known and (known == 255.0 or images.dtype.kind in "fb"):
            return 0.0, known
    return find_levels(ranges) or (0.0, 1.0)


def _check_images(path: str, images: NDArray[Any]) -> NDArray[Any]:
    if images.dtype.kind not in "uifb":
        raise DatasetError(f"x in {path} is {images.dtype}; expected numbers", fix=NPZ_FIX)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        channels_first = images.ndim == 4 and images.shape[1] in (1, 3)
        hint = "; move the channels last: x.transpose(0, 2, 3, 1)" if channels_first else ""
        raise DatasetError(
            f"x in {path} has shape {images.shape}; expected (N, H, W) or (N, H, W, 1 or 3){hint}", fix=NPZ_FIX
        )
    return images.astype(np.uint8) * 255 if images.dtype.kind == "b" else images


def fit_images(images: NDArray[np.uint8], image_size: int, channels: int, rule: PixelRule) -> NDArray[np.uint8]:
    """(N, H, W, C) to (N, image_size, image_size, channels), the same way as image files."""
    if images.shape[1:] == (image_size, image_size, channels):
        return np.ascontiguousarray(images)
    fitted = np.empty((len(images), image_size, image_size, channels), dtype=np.uint8)

    def work(chunk: range) -> None:
        for index in chunk:
            pixels = images[index, :, :, 0] if images.shape[-1] == 1 else images[index]
            fitted[index] = fit_image(Image.fromarray(np.ascontiguousarray(pixels)), image_size, channels, rule)

    map_chunks(work, len(images))
    return fitted


def native_sizes(images: NDArray[np.uint8]) -> Sequence[tuple[int, int]]:
    """(width, height), once: they are all alike."""
    return [(images.shape[2], images.shape[1])]
