"""Convolutions and matrix products whose weights are packed to the vector width."""

from __future__ import annotations

from hwautoml.schedules.kernel import Kernel
from hwautoml.schedules.legalize import PACKED
from hwautoml.schedules.tiling import (
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
    channels = kernel.num_channels
    lanes = next((w for w in (vector, vector // 2) if w and channels % w == 0), channels)
    splits = divisors(num_blocks, unit.num_accumulators) if lanes == vector else [num_blocks]
    limit = unit.num_accumulators * unit.lanes // max(vector, unit.lanes // 2)
    found = []
    for blocks in splits:
        for rows in divisors(height, _MAX_ROWS):
            for columns in divisors(width, limit):
                accumulators = rows * columns * blocks
                smallest = rows * columns == 1 and (blocks == splits[0])
                if (accumulators > limit and not smallest) or (rows > 2 and columns < min(width, 4)):
                    continue
                for outside in (False, True) if 1 < height * width and blocks < num_blocks else (False,):
                    found += _variants(kernel, rows, columns, min(channels, blocks * vector), lanes, outside)
    found.sort(key=lambda tiling: _penalty(tiling, vector))
    return found


def _variants(
    kernel: Kernel, rows: int, columns: int, channels: int, lanes: int, outside: bool
) -> list[Tiling]:
    """One tile with each way of unrolling and padding."""
    unrolls = (4, 1) if kernel.reduction_extents(kernel.reduction)[-1] % 4 == 0 else (1,)
    paddings = ("apart", "tile", "inline") if kernel.paddings() else ("apart",)
    return [
        Tiling(rows, columns, channels, lanes, outside, unroll, padding)
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
    loops = tile_output(kernel, kernel.near[-1], tiling)
    schedule.compute_at(reduction, loops.outer[-1], preserve_unit_loops=True)
    place_paddings(kernel, loops, tiling, unit.lanes)
    num_spatial = len(kernel.spatial_extents(reduction))
    num_reduced = len(kernel.reduction_extents(reduction))
    inside = schedule.get_loops(reduction)[-(num_spatial + num_reduced) :]
    spatial, reduced = inside[:num_spatial], inside[num_spatial:]
    if tiling.unroll > 1:
        reduced[-1:] = schedule.split(reduced[-1], [None, tiling.unroll])
        schedule.unroll(reduced[-1])
    schedule.reorder(*reduced, *spatial)
    schedule.vectorize(spatial[-1])
    schedule.vectorize(loops.vector)
    for loop in [*spatial[:-1], *loops.inner]:
        schedule.unroll(loop)
    schedule.set_scope(reduction, 0, "local")
    schedule.decompose_reduction(reduction, reduced[0])
    if num_threads > 1:
        parallelize(kernel, loops, tiling)
