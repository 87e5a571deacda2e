"""Intervals of figures that were counted."""

from __future__ import annotations

import math


def wilson_interval(share: float, num_trials: int) -> tuple[float, float]:
    """95 % interval of a share, 0..1, seen in ``num_trials`` independent trials (Wilson 1927)."""
    z = 1.96
    centre = share + z * z / (2 * num_trials)
    spread = z * math.sqrt(share * (1 - share) / num_trials + z * z / (4 * num_trials**2))
    scale = 1 + z * z / num_trials
    return max((centre - spread) / scale, 0.0), min((centre + spread) / scale, 1.0)
