"""Images that come as arrays: an .npz file, or scikit-learn's built-in digits."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hwautoml.core.pixel_rule import PixelRule
from hwautoml.datasets.decoding import fit_image, map_chunks
from hwautoml.datasets.levels import find_levels, range_of, to_eight_bits
from hwautoml.errors import DatasetError, MissingDependencyError

NPZ_FIX = "save it with numpy.savez(path, x=images, y=labels): x numbers (N, H, W) or (N, H, W, 1 or 3), y (N,)"
NUM_RANGED = 256


@dataclass(frozen=True, eq=False)
class LabelledArray:
    """``images`` (N, H, W, C) uint8, made so by ``rule``; ``labels`` (N,) int64 into ``classes``."""

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    rule: PixelRule = field(default_factory=PixelRule)

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.classes, self.images.shape)).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()[:16]


def load_digits_array() -> LabelledArray:
    """1,797 grey 8x8 handwritten digits; their values 0..16 are scaled to 0..255.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingDependencyError(
            "the built-in data set digits comes with scikit-learn, which is not installed",
            fix="pip install scikit-learn",
        ) from error
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    return LabelledArray("digits", images, digits.target.astype(np.int64), tuple(str(i) for i in range(10)))


def load_npz(path: Path) -> LabelledArray:
    """``x`` (N, H, W) or (N, H, W, 1 or 3), numbers of any kind, ``y`` (N,) integers or texts.

    Raises:
        DatasetError: damaged, or any of the above does not hold.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            missing = [name for name in ("x", "y") if name not in arrays]
            if missing:
                raise DatasetError(f"{path} lacks {' and '.join(missing)}; it has {list(arrays)}", fix=NPZ_FIX)
            images, labels = arrays["x"], arrays["y"]
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise DatasetError(f"cannot read {path} as an .npz: {error}", fix=NPZ_FIX) from error
    return replace(labelled_array(str(path), images, labels), name=path.stem)


def labelled_array(origin: str, images: NDArray[Any], labels: NDArray[Any]) -> LabelledArray:
    """``images`` (N, H, W) or (N, H, W, 1 or 3), ``labels`` (N,); ``origin`` names them in messages.

    Numbers other than uint8 are scaled by robust percentiles, but for fractions 0..1 and bytes 0..255 in a wider
    type, whose meaning is known.

    Raises:
        DatasetError: other shapes, no numbers, or one class only.
    """
    images = _check_images(origin, images)
    names, numbers = _check_labels(origin, labels, len(images))
    if images.dtype == np.uint8:
        return LabelledArray(origin, images, numbers, names)
    rule = PixelRule(_levels(images))
    assert rule.levels is not None
    scaled = np.empty(images.shape, dtype=np.uint8)
    for index, image in enumerate(images):
        scaled[index] = to_eight_bits(image, rule.levels)
    return LabelledArray(origin, scaled, numbers, names, rule)


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


def _check_labels(path: str, labels: NDArray[Any], num_images: int) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    if labels.dtype.kind not in "iuU":
        raise DatasetError(f"y in {path} is {labels.dtype}; expected integers or texts", fix=NPZ_FIX)
    if labels.shape != (num_images,):
        raise DatasetError(f"y in {path} has shape {labels.shape}; x has {num_images} images", fix=NPZ_FIX)
    values, numbers = np.unique(labels, return_inverse=True)
    if len(values) < 2:
        raise DatasetError(f"{path} has one class only, {str(values[0])!r}", fix="add images of something else")
    return tuple(str(value) for value in values), numbers.astype(np.int64)


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
