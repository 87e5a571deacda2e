"""Pictures of more than eight bits per pixel: which of their values become 0 and 255, and the arithmetic of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# One pixel in a thousand may be a dead or a hot one; one picture in a hundred, or in any ten, odd as a whole.
PIXEL_PERCENTILES = (0.1, 99.9)
PICTURES_PER_ODD_ONE = 100
MIN_PICTURES_FOR_ODD_ONES = 10
# Rows are scaled in parts of this many pixels, so that a scan of a hundred megapixels takes no gigabyte of floats.
PART_PIXELS = 1 << 20


def to_eight_bits(values: NDArray[np.generic], levels: tuple[float, float]) -> NDArray[np.uint8]:
    """``values`` (H, W, ...) linearly from ``levels`` to 0..255, rounded half up, clipped; NaN becomes 0.

    ``bundles/runner/run.py`` and ``cpp/image.cpp`` repeat this; tests compare them.
    """
    low, high = levels
    scale = 255.0 / (high - low)
    result = np.empty(values.shape, dtype=np.uint8)
    rows = max(1, PART_PIXELS * len(values) // max(values.size, 1))
    for start in range(0, len(values), rows):
        part = (values[start : start + rows].astype(np.float64) - low) * scale
        result[start : start + rows] = np.nan_to_num(np.clip(np.floor(part + 0.5), 0, 255))
    return result


def range_of(values: NDArray[np.generic]) -> tuple[float, float] | None:
    """The range of one picture without its most extreme pixels; None where nothing in it is finite."""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not finite.size:
        return None
    low, high = np.percentile(finite, PIXEL_PERCENTILES)
    return float(low), float(high)


def find_levels(ranges: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """From the ranges of training pictures to those of the whole set; None without any.

    Where all pixels are alike, that value becomes 0.
    """
    if not ranges:
        return None
    num_odd = max(1, len(ranges) // PICTURES_PER_ODD_ONE) if len(ranges) >= MIN_PICTURES_FOR_ODD_ONES else 0
    lows, highs = np.sort(np.array(ranges), axis=0).T
    low, high = float(lows[num_odd]), float(highs[-1 - num_odd])
    return low, (high if high > low else low + max(1.0, abs(low)))
