"""What pictures look like, small: to find copies without comparing every picture with every other."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

THUMBNAIL_SIDE = 16


@dataclass(frozen=True, eq=False)
class Looks:
    """``digests`` (num_images,) uint64 of the pixels as training sees them: alike for copies, whatever the file.
    ``thumbnails`` (num_images, 16, 16) uint8, grey.
    """

    digests: NDArray[np.uint64]
    thumbnails: NDArray[np.uint8]

    @classmethod
    def empty(cls, num_images: int) -> Looks:
        return cls(
            np.zeros(num_images, dtype=np.uint64),
            np.zeros((num_images, THUMBNAIL_SIDE, THUMBNAIL_SIDE), dtype=np.uint8),
        )

    def put(self, start: int, part: Looks) -> None:
        """Writes ``part`` over the rows from ``start`` on; threads may write different rows at once."""
        end = start + len(part.digests)
        self.digests[start:end] = part.digests
        self.thumbnails[start:end] = part.thumbnails

    def at(self, indices: NDArray[np.int64]) -> Looks:
        return Looks(self.digests[indices], self.thumbnails[indices])


def looks_of(images: NDArray[np.uint8]) -> Looks:
    """``images`` (N, H, W, C) uint8."""
    digests = [hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in images]
    return Looks(np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64), _thumbnails(images))


def _thumbnails(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Means of blocks, of the mean of the channels."""
    rows = _averaging(images.shape[1])
    columns = rows if images.shape[1] == images.shape[2] else _averaging(images.shape[2])
    grey = images.mean(axis=3, dtype=np.float32) if images.shape[3] > 1 else images[..., 0].astype(np.float32)
    return np.rint(rows @ grey @ columns.T).astype(np.uint8)


def _averaging(side: int) -> NDArray[np.float32]:
    """(16, side): each row averages its sixteenth of the pixels, parts of pixels included."""
    edges = np.linspace(0, side, THUMBNAIL_SIDE + 1)
    pixel = np.arange(side)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    weights = np.clip(overlap, 0, None)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
