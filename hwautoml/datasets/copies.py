"""Pictures that are there more than once: to the pixel, or nearly (saved anew, resized, brightened)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwautoml.datasets.looks import Looks

# Between two standardised thumbnails of unit length, 0 to 2. Of 60,000 photographs of CIFAR-10, 42 pairs lie within it;
# saved anew as JPEG of quality 60, more than 90 % of pictures do.
NEAR_DISTANCE = 0.15
# Thumbnails with less contrast (grey levels) are told apart by noise only.
MIN_CONTRAST = 3.0
NUM_AXES = 16
NUM_NEIGHBOURS = 4
# Parts before one camera look alike, all of them: that is no burst, and says nothing of copies.
MAX_ALIKE_FRACTION = 0.1
MIN_ALIKE = 20


@dataclass(frozen=True, eq=False)
class Copies:
    """``exact`` and ``near`` (num_images,) int64: images of one number are copies of each other, to the pixel and (or)
    nearly. ``are_all_alike``: so many looked alike that near copies were not told apart, and ``near`` is ``exact``.
    """

    exact: NDArray[np.int64]
    near: NDArray[np.int64]
    are_all_alike: bool = False


def find_copies(looks: Looks) -> Copies:
    """Copies among the images of ``looks``."""
    exact = np.unique(looks.digests, return_inverse=True)[1].astype(np.int64)
    firsts = np.unique(exact, return_index=True)[1]
    pairs = firsts[near_pairs(looks.thumbnails[firsts])]
    near = joined(exact, exact[pairs])
    largest = int(np.bincount(near[firsts]).max(initial=0))
    if largest > max(MIN_ALIKE, MAX_ALIKE_FRACTION * len(firsts)):
        return Copies(exact, exact, are_all_alike=True)
    return Copies(exact, near)


def near_pairs(thumbnails: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(num_pairs, 2) indices of different ``thumbnails`` (N, 16, 16) whose standardised pixels nearly agree.

    The nearest few of each, searched along the principal axes: shorter there, and so never missed.
    """
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    rows = np.flatnonzero(flat.std(axis=1) >= MIN_CONTRAST)
    if len(rows) < 2:
        return np.zeros((0, 2), dtype=np.int64)
    from scipy.spatial import cKDTree

    flat = flat[rows] / np.linalg.norm(flat[rows], axis=1, keepdims=True)
    axes = np.linalg.eigh(flat.T @ flat)[1][:, -NUM_AXES:]
    projected = flat @ axes
    count = min(NUM_NEIGHBOURS + 1, len(rows))
    distances, neighbours = cKDTree(projected).query(projected, k=count, distance_upper_bound=NEAR_DISTANCE, workers=-1)
    one, column = np.nonzero(np.isfinite(distances))
    other = neighbours[one, column]
    one, other = one[one < other], other[one < other]
    is_near = np.linalg.norm(flat[one] - flat[other], axis=1) <= NEAR_DISTANCE
    return np.stack([rows[one[is_near]], rows[other[is_near]]], axis=1)


def joined(groups: NDArray[np.int64], pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """``groups`` (num_images,) with those of each of the ``pairs`` (num_pairs, 2) of groups made one."""
    root = np.arange(int(groups.max(initial=-1)) + 1)

    def find(group: int) -> int:
        while root[group] != group:
            root[group] = root[root[group]]
            group = int(root[group])
        return group

    for one, other in pairs.tolist():
        first, second = sorted((find(one), find(other)))
        root[second] = first
    return np.array([find(group) for group in range(len(root))], dtype=np.int64)[groups]


def with_names(groups: NDArray[np.int64], names: Sequence[str]) -> NDArray[np.int64]:
    """``groups`` with images of the same, not empty, name (num_images,) made one."""
    first: dict[str, int] = {}
    pairs = [(first.setdefault(name, group), group) for name, group in zip(names, groups.tolist(), strict=True) if name]
    return joined(groups, np.array(pairs, dtype=np.int64).reshape(-1, 2))
