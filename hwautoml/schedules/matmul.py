"""Matrix products of two computed matrices (attention): tiles of rows times vectors of columns."""

from __future__ import annotations

from hwautoml.schedules.kernel import Kernel
from hwautoml.schedules.tiling import PARALLEL_STEPS, Tiling, divisors
from hwautoml.schedules.vector_unit import VectorUnit

NAME = "matmul"
_MAX_VECTORS = 4


def fits(kernel: Kernel) -> bool:
    """Whether the function is one product (..., rows, k) x (..., k, columns), nothing computed before it.

    How many products there are, how many rows and how long the sum, may be known only at run time.
    """
    if len(kernel.reductions) != 1 or "matmul" not in kernel.name(kernel.reduction):
        return False
    if kernel.before or kernel.far or kernel.spatial_extents(kernel.reduction)[-1] == 0:
        return False
    block = kernel.schedule.get(kernel.reduction)
    column = [variable.var for variable in block.iter_vars if int(variable.iter_type) == 0][-1]
    is_single = len(kernel.reduction_extents(kernel.reduction)) == 1
    has_rows = len(kernel.spatial_extents(kernel.reduction)) >= 2
    return is_single and has_rows and block.reads[-1].region[-1].min.same_as(column)


def candidates(kernel: Kernel, unit: VectorUnit) -> list[Tiling]:
    """Tilings to try, the most promising first; the first one is the fixed rule."""
    *_, rows, columns = kernel.spatial_extents(kernel.reduction)
    lanes = divisors(columns, unit.lanes)[-1]
    heights = divisors(rows, unit.num_accumulators) or [1]  # rows not known: one at a time
    found = [
        Tiling(columns=height, channels=vectors * lanes, lanes=lanes)
        for vectors in divisors(columns // lanes, _MAX_VECTORS)
        for height in heights
        if height * vectors <= unit.num_accumulators
    ]
    found.sort(key=lambda tiling: -tiling.columns * tiling.channels)
    return found


def apply(kernel: Kernel, tiling: Tiling, unit: VectorUnit, num_threads: int) -> None:
    """Schedules the kernel: a register tile, steps of the sum outside of it."""
    schedule, reduction = kernel.schedule, kernel.reduction
    if kernel.near:
        kernel.inline(kernel.near[:-1])
        output = kernel.near[-1]
    else:
        schedule.cache_write(reduction, 0, "global")
        (output,) = schedule.get_consumers(reduction)
    *batch, row, column = schedule.get_loops(output)
    row_tile, row_part = schedule.split(row, [None, tiling.columns])
    tile, part, vector = schedule.split(column, [None, tiling.channels // tiling.lanes, tiling.lanes])
    schedule.reorder(row_tile, tile, row_part, part, vector)
    schedule.compute_at(reduction, tile, preserve_unit_loops=True)
    if num_threads > 1 and kernel.num_steps >= PARALLEL_STEPS:
        schedule.parallel(schedule.fuse(*batch, row_tile) if batch else row_tile)
    *_, inner_row, inner_column, step = schedule.get_loops(reduction)
    inner_part, inner_vector = schedule.split(inner_column, [None, tiling.lanes])
    schedule.reorder(step, inner_row, inner_part, inner_vector)
    for loop in (inner_vector, vector):
        schedule.vectorize(loop)
    for loop in (inner_row, inner_part, row_part, part):
        schedule.unroll(loop)
    schedule.set_scope(reduction, 0, "local")
    schedule.decompose_reduction(reduction, step)
