"""Convolutions and matrix products whose weights are packed to the vector width."""

from __future__ import annotations

import math
from dataclasses import replace

from hwautoml.schedules.kernel import Kernel
from hwautoml.schedules.legalize import PACKED
from hwautoml.schedules.tiling import (
    PARALLEL_STEPS,
    TileLoops,
    Tiling,
    divisors,
    parallelize,
    place_paddings,
    tile_output,
)
from hwautoml.schedules.vector_unit import VectorUnit

NAME = "packed"
#: Vector accumulators a tile should have: enough to hide the latency of a multiply-add.
_BEST_ACCUMULATORS, _FEWEST_ACCUMULATORS = 20, 12
_MAX_ROWS = 8


def fits(kernel: Kernel) -> bool:
    """Whether the function is one packed reduction, possibly with blocks around it."""
    if len(kernel.reductions) != 1 or not kernel.near:
        return False
    return kernel.name(kernel.reduction) == PACKED and 0 not in kernel.extents(kernel.reduction)[1:]


def candidates(kernel: Kernel, unit: VectorUnit) -> list[Tiling]:
    """Tilings to try, the most promising first; the first one is the fixed rule."""
    shape = kernel.spatial_extents(kernel.reduction)
    height, width = (shape[1], shape[2]) if len(shape) == 5 else (1, max(1, shape[0]))
    num_blocks, vector = shape[-2:]
    limit = unit.num_accumulators
    found = []
    for channels, lanes in _channel_splits(kernel, num_blocks, vector, limit):
        blocks = -(-channels // vector)
        for rows in divisors(height, _MAX_ROWS):
            for columns in divisors(width, limit):
                too_many = rows * columns * blocks > limit and rows * columns > 1
                if too_many or (rows > 2 and columns < min(width, 4)):
                    continue
                found += _variants(kernel, Tiling(rows, columns, channels, lanes))
    found.sort(key=lambda tiling: _penalty(tiling, vector))
    return found


def _channel_splits(
    kernel: Kernel, num_blocks: int, vector: int, limit: int
) -> list[tuple[int, int]]:
    """(channels per tile, numbers per store) to choose from."""
    channels = kernel.num_channels
    if channels % vector == 0:
        return [(blocks * vector, vector) for blocks in divisors(num_blocks, limit)]
    if num_blocks <= limit:
        # The tile has more channels than are wanted; all of them must be in one tile.
        half = vector // 2
        return [(channels, half if half and channels % half == 0 else channels)]
    # Too many for one tile: the packed result is stored as it is, and cropped afterwards.
    return [(blocks * vector, vector) for blocks in divisors(num_blocks, limit)]


def _variants(kernel: Kernel, tile: Tiling) -> list[Tiling]:
    """One tile with each order of loops, way of unrolling and of padding."""
    extents = kernel.spatial_extents(kernel.reduction)
    pixels = math.prod(extents[1:-2])
    whole = tile.channels >= kernel.num_channels or pixels == 1
    unrolls = (4, 1) if kernel.reduction_extents(kernel.reduction)[-1] % 4 == 0 else (1,)
    paddings = ("apart", "tile", "inline") if kernel.paddings() else ("apart",)
    return [
        replace(tile, channels_outside=outside, unroll=unroll, padding=padding)
        for outside in ((False,) if whole else (False, True))
        for unroll in unrolls
        for padding in paddings
    ]


def _penalty(tiling: Tiling, vector: int) -> float:
    """How far a tiling is from the shape that ran fastest on most layers (lower is better)."""
    blocks = -(-tiling.channels // vector)
    accumulators = tiling.rows * tiling.columns * blocks
    penalty = float(abs(accumulators - _BEST_ACCUMULATORS))
    if accumulators < _FEWEST_ACCUMULATORS:
        penalty += 8
    penalty += 0 if tiling.columns >= tiling.rows else 1
    penalty += 3 if blocks > 5 and accumulators > blocks else 0
    penalty += 0.5 if tiling.channels_outside else 0
    penalty += 0.25 if tiling.unroll == 1 else 0
    return penalty + {"apart": 0.0, "tile": 0.6, "inline": 1.5}[tiling.padding]


def apply(kernel: Kernel, tiling: Tiling, unit: VectorUnit, num_threads: int) -> None:
    """Schedules the kernel: a register tile per output tile, reductions outside of it."""
    schedule, reduction = kernel.schedule, kernel.reduction
    kernel.inline([*kernel.near[:-1], *kernel.far[:-1]])
    paddings = kernel.paddings()
    kernel.inline([block for block in kernel.before if block not in paddings])
    if kernel.far:
        kernel.vectorize_tail(kernel.far[-1], unit.lanes)
    output, apart = kernel.near[-1], kernel.num_channels % tiling.lanes != 0
    if apart:
        kernel.vectorize_tail(output, unit.lanes)
        schedule.cache_write(reduction, 0, "global")
        (output,) = schedule.get_consumers(reduction)
    loops = tile_output(kernel, output, tiling, packed=apart)
    schedule.compute_at(reduction, loops.outer[-1], preserve_unit_loops=True)
    place_paddings(kernel, loops, tiling, unit.lanes)
    if num_threads > 1 and kernel.num_steps >= PARALLEL_STEPS:
        parallelize(kernel, loops)
    _tile_reduction(kernel, loops, tiling)


def _tile_reduction(kernel: Kernel, loops: TileLoops, tiling: Tiling) -> None:
    """Orders the loops of one tile: reduction steps, then pixels, then vectors."""
    schedule, reduction = kernel.schedule, kernel.reduction
    num_spatial = len(kernel.spatial_extents(reduction))
    num_reduced = len(kernel.reduction_extents(reduction))
    inside = schedule.get_loops(reduction)[-(num_spatial + num_reduced) :]
    spatial, reduced = inside[:num_spatial], inside[num_spatial:]
    if tiling.unroll > 1:
        reduced[-1:] = schedule.split(reduced[-1], [None, tiling.unroll])
    schedule.reorder(*reduced, *spatial)
    if tiling.unroll > 1:
        schedule.unroll(reduced[-1])
    schedule.vectorize(spatial[-1])
    schedule.vectorize(loops.vector)
    for loop in [*spatial[:-1], *loops.inner]:
        schedule.unroll(loop)
    schedule.set_scope(reduction, 0, "local")
    schedule.decompose_reduction(reduction, reduced[0])
