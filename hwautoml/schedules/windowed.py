"""Depthwise convolutions and poolings: each channel has its own small window."""

from __future__ import annotations

import math

from hwautoml.schedules.convolutions import PACKED
from hwautoml.schedules.kernel import Kernel
from hwautoml.schedules.tiling import (
    PARALLEL_STEPS,
    Tiling,
    divisors,
    parallelize,
    place_paddings,
    tile_output,
)
from hwautoml.schedules.vector_unit import VectorUnit

NAME = "windowed"
_MAX_ROWS, _MAX_COLUMNS, _MAX_VECTORS = 4, 16, 4
#: A window larger than this (a global pooling) is a reduction, not a window.
_MAX_WINDOW = 49
_MAX_UNROLLED_WINDOW = 9


def fits(kernel: Kernel) -> bool:
    """Whether the function is one reduction from (n, h, w, c) over a window of (kh, kw)."""
    if len(kernel.reductions) != 1 or kernel.name(kernel.reduction) == PACKED:
        return False
    shape, window = (
        kernel.spatial_extents(kernel.reduction),
        kernel.reduction_extents(kernel.reduction),
    )
    small = len(window) == 2 and 0 < window[0] * window[1] <= _MAX_WINDOW
    if not small or len(shape) != 4 or 0 in shape[1:] or shape[1] * shape[2] == 1:
        return False
    return not kernel.near or kernel.spatial_extents(kernel.near[-1])[1:] == shape[1:]


def candidates(kernel: Kernel, unit: VectorUnit) -> list[Tiling]:
    """Tilings to try, the most promising first; the first one is the fixed rule."""
    _, height, width, channels = kernel.spatial_extents(kernel.reduction)
    lanes = next(
        (size for size in (unit.lanes, unit.lanes // 2) if size and channels % size == 0),
        divisors(channels, unit.lanes)[-1],
    )
    paddings = ("apart", "tile", "inline") if kernel.paddings() else ("apart",)
    found = []
    for vectors in divisors(channels // lanes, _MAX_VECTORS):
        size = vectors * lanes
        for rows in divisors(height, _MAX_ROWS):
            for columns in divisors(width, _MAX_COLUMNS):
                if rows * columns * vectors > unit.num_accumulators and rows * columns > 1:
                    continue
                for outside in (True, False) if size < channels else (False,):
                    found += [
                        Tiling(rows, columns, size, lanes, outside, 1, padding)
                        for padding in paddings
                    ]
    padding, num_accumulators = _preference(kernel)
    found.sort(key=lambda tiling: _penalty(tiling, padding, num_accumulators))
    return found


def _preference(kernel: Kernel) -> tuple[str, int]:
    """(padding, vector accumulators per tile) that ran fastest on most layers of a kind.

    A copy of a strided layer's input costs as much as the layer itself; reading past the
    border is cheapest to check for in small tiles, and gets dear in large windows.
    """
    height, width = kernel.spatial_extents(kernel.reduction)[1:3]
    window = math.prod(kernel.reduction_extents(kernel.reduction))
    for block in kernel.paddings():
        padded_height, padded_width = kernel.spatial_extents(block)[1:3]
        if padded_height * padded_width > 2 * height * width:
            return "inline", 8
        return ("inline", 4) if window <= _MAX_UNROLLED_WINDOW else ("apart", 12)
    return "apart", 12


def _penalty(tiling: Tiling, padding: str, num_accumulators: int) -> float:
    """How far a tiling is from the preferred one (lower is better)."""
    vectors = tiling.channels // tiling.lanes
    pixels = tiling.rows * tiling.columns
    penalty = abs(pixels * vectors - num_accumulators) + 2.0 * (vectors - 1)
    penalty += 4 if pixels * vectors < num_accumulators / 2 else 0
    penalty += 0.1 * abs(tiling.rows - 2) + (0 if tiling.channels_outside else 0.5)
    return penalty + (0 if tiling.padding == padding else 0.7)


def apply(kernel: Kernel, tiling: Tiling, unit: VectorUnit, num_threads: int) -> None:
    """Schedules the kernel: the window is unrolled around a register tile."""
    schedule, reduction = kernel.schedule, kernel.reduction
    kernel.inline([*kernel.near[:-1], *kernel.far[:-1]])
    paddings = kernel.paddings()
    kernel.inline([block for block in kernel.before if block not in paddings])
    if kernel.far:
        kernel.vectorize_tail(kernel.far[-1], unit.lanes)
    if kernel.near:
        output = kernel.near[-1]
    else:
        schedule.cache_write(reduction, 0, "global")
        (output,) = schedule.get_consumers(reduction)
    loops = tile_output(kernel, output, tiling)
    schedule.compute_at(reduction, loops.outer[-1], preserve_unit_loops=True)
    place_paddings(kernel, loops, tiling, unit.lanes)
    if num_threads > 1 and kernel.num_steps >= PARALLEL_STEPS:
        parallelize(kernel, loops)
    inside = schedule.get_loops(reduction)[-6:]
    spatial, window = inside[:4], inside[4:]
    spatial[-1:] = schedule.split(spatial[-1], [None, tiling.lanes])
    schedule.reorder(*window, *spatial)
    schedule.vectorize(spatial[-1])
    schedule.vectorize(loops.vector)
    # Unrolled whole, a 7 x 7 window takes seconds to compile and runs no faster.
    rows_too = math.prod(kernel.reduction_extents(reduction)) <= _MAX_UNROLLED_WINDOW
    unrolled = window if rows_too else window[1:]
    for loop in [*spatial[:-1], *unrolled, *loops.inner]:
        schedule.unroll(loop)
    schedule.set_scope(reduction, 0, "local")
    schedule.decompose_reduction(reduction, window[0])
