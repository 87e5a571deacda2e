"""Pareto maths on arrays; every objective is to be minimised."""

from __future__ import annotations

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
    for i in np.flatnonzero(valid):
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


def hypervolume_2d(values: NDArray[np.floating], reference: tuple[float, float]) -> float:
    """Area dominated by ``values`` (num_candidates, 2) and bounded by ``reference``, lower is better."""
    values = np.asarray(values, dtype=np.float64)
    inside = values[(values < np.asarray(reference)).all(axis=1)]
    if not len(inside):
        return 0.0
    front = inside[non_dominated(inside)]
    front = front[np.lexsort((front[:, 1], front[:, 0]))]
    area, ceiling = 0.0, reference[1]
    for x, y in front:
        area += (reference[0] - x) * max(ceiling - y, 0.0)
        ceiling = min(ceiling, y)
    return float(area)
