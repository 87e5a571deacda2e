"""Figures of a confusion matrix, whose rows are true classes and columns predictions, and how sure they are."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959963984540054  # of a normal distribution, 95 % lies within that many deviations


def wilson_interval(num_right: int, num_trials: int, z: float = Z_95) -> tuple[float, float]:
    """Interval of a share seen in ``num_trials`` independent trials, in 0..1 (Wilson 1927); all of it without any."""
    if num_trials == 0:
        return 0.0, 1.0
    share, spread = num_right / num_trials, z * z / num_trials
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / num_trials + spread / (4 * num_trials))
    # At the ends the exact value is known, and rounding must not miss it.
    low = 0.0 if num_right == 0 else max(middle - half, 0.0)
    return low, (1.0 if num_right == num_trials else min(middle + half, 1.0))


def accuracy(confusion: NDArray[np.integer]) -> float:
    """Share of right answers, 0..1; 0 without any."""
    return float(np.trace(confusion) / max(confusion.sum(), 1))


def recalls(confusion: NDArray[np.integer]) -> NDArray[np.float64]:
    """(num_classes,): the share of each class that was recognised; NaN where there was nothing of it."""
    number = confusion.sum(axis=1)
    return np.where(number > 0, np.diag(confusion) / np.maximum(number, 1), np.nan)


def balanced_accuracy(confusion: NDArray[np.integer]) -> float:
    """Mean of the recalls, so that each class counts the same (Brodersen et al. 2010); NaN without any image."""
    known = recalls(confusion)
    known = known[~np.isnan(known)]
    return float(known.mean()) if len(known) else math.nan


def worst_recall(confusion: NDArray[np.integer]) -> tuple[int, float] | None:
    """(class, its recall) of the class that is recognised least often; None without any image."""
    found = recalls(confusion)
    if np.isnan(found).all():
        return None
    index = int(np.nanargmin(found))
    return index, float(found[index])
