"""Depthwise convolutions and poolings: each channel has its own small window."""

from __future__ import annotations

import math

from hwautoml.schedules.convolutions import DEPTHWISE, PACKED
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
_ACCUMULATORS_SHARE = 7 / 16  # of the registers


def fits(kernel: Kernel) -> bool:
    """Whether the function is one reduction from (n, h, w, c) over a window of (kh, kw)."""
    if len(kernel.reductions) != 1 or kernel.name(kernel.reduction) == PACKED:
        return False
    shape, window = (
        kernel.spatial_extents(kernel.reduction),
        kernel.reduction_extents(kernel.reduction),
    )
    small = len(window) == 2 and 0 < window[0] * window[1] <= _MAX_WINDOW
    if not small or len(shape) != 4 or 0 in shape[1:]:
        return False
    if shape[1] * shape[2] == 1 and kernel.name(kernel.reduction) != DEPTHWISE:
        return False  # a mean over all pixels
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
                    found += [Tiling(rows, columns, size, lanes, outside, 1, padding) for padding in paddings]
    found.sort(key=lambda tiling: _penalty(tiling, unit))
    return found


def _penalty(tiling: Tiling, unit: VectorUnit) -> float:
    """How far a tiling is from the preferred one (lower is better): part of a row, the border checked at each read.

    Of 54 depthwise layers (3 x 3 to 7 x 7, both strides) this choice is 7 % slower than the best of 60 candidates, on
    AVX2. Seven accumulators of sixteen registers leave room for a row of the window; with twelve, some are spilled.
    """
    vectors = tiling.channels // tiling.lanes
    wanted = round(_ACCUMULATORS_SHARE * unit.num_registers)
    penalty = abs(tiling.rows * tiling.columns * vectors - wanted) + 2.0 * (vectors - 1)
    penalty += 0.3 * (tiling.rows - 1) + (1.0 if tiling.channels_outside else 0.0)
    return penalty + (0 if tiling.padding == "inline" else 1)


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
