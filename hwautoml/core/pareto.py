"""Pareto maths on arrays; every objective is to be minimised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def non_dominated(values: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Mask (num_candidates,) of the Pareto front of ``values`` (num_candidates, num_objectives), lower is better.

    A point is dominated when another is at least as good everywhere and better somewhere;
    of identical points all are kept. Rows with NaN are never on the front.
    """
    values = np.asarray(values, dtype=np.float64)
    valid = ~np.isnan(values).any(axis=1)
    mask = valid.copy()
    for i in np.lexsort(values.T[::-1]):  # in this order nothing is dominated by what follows
        if mask[i]:
            no_better = (values[i] <= values).all(axis=1)
            worse = (values[i] < values).any(axis=1)
            mask &= ~(no_better & worse)
    return mask


def non_dominated_rank(values: NDArray[np.floating]) -> NDArray[np.int64]:
    """Rank (num_candidates,): 0 for the front, 1 for the front of the rest, and so on (Deb et al. 2002)."""
    values = np.asarray(values, dtype=np.float64)
    ranks = np.full(len(values), -1, dtype=np.int64)
    rank = 0
    remaining = np.flatnonzero(~np.isnan(values).any(axis=1))
    if values.shape[1] == 1 and len(remaining):  # each front is one value
        ranks[remaining] = np.unique(values[remaining, 0], return_inverse=True)[1]
        rank, remaining = int(ranks.max()) + 1, remaining[:0]
    while len(remaining):
        front = non_dominated(values[remaining])
        ranks[remaining[front]] = rank
        remaining = remaining[~front]
        rank += 1
    ranks[ranks < 0] = rank
    return ranks


def crowding_distance(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Distance (num_candidates,) to the neighbours along each objective; infinite at the ends (Deb et al. 2002)."""
    values = np.asarray(values, dtype=np.float64)
    distance = np.zeros(len(values))
    for column in values.T:
        order = np.argsort(column, kind="stable")
        spread = column[order[-1]] - column[order[0]]
        distance[order[[0, -1]]] = np.inf
        if spread > 0 and len(values) > 2:
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / spread
    return distance


def hypervolume(values: NDArray[np.floating], reference: Sequence[float]) -> float:
    """Volume dominated by ``values`` (num_candidates, num_objectives) and bounded by ``reference``, lower is better.

    Slices along the last objective (Zitzler 1999, hypervolume by slicing objectives): fronts of hundreds in three
    objectives, of dozens in four or five. Rows with NaN count for nothing.
    """
    bounds = np.asarray(reference, dtype=np.float64)
    values = np.asarray(values, dtype=np.float64).reshape(-1, len(bounds))
    inside = values[(values < bounds).all(axis=1)]
    return _sliced(inside[non_dominated(inside)], bounds)


def _sliced(front: NDArray[np.float64], bounds: NDArray[np.float64]) -> float:
    if not len(front):
        return 0.0
    if len(bounds) == 1:
        return float(bounds[0] - front.min())
    if len(bounds) == 2:
        front = front[np.lexsort((front[:, 1], front[:, 0]))]
        ceilings = np.minimum.accumulate(np.append(bounds[1], front[:, 1]))
        return float(((bounds[0] - front[:, 0]) * (ceilings[:-1] - ceilings[1:])).sum())
    front = front[np.argsort(front[:, -1], kind="stable")]
    heights = np.append(front[1:, -1], bounds[-1]) - front[:, -1]
    volume = 0.0
    for number, height in enumerate(heights, start=1):
        if height > 0:
            slice_ = front[:number, :-1]
            volume += float(height) * _sliced(slice_[non_dominated(slice_)], bounds[:-1])
    return volume
