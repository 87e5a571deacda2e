"""Softmax and layer normalisation: what `row_math` describes, with vectors along the rows."""

from __future__ import annotations

from hwautoml.schedules.kernel import Kernel
from hwautoml.schedules.row_math import PREFIX
from hwautoml.schedules.tiling import PARALLEL_STEPS, Tiling
from hwautoml.schedules.vector_unit import VectorUnit

NAME = "row_reductions"


def fits(kernel: Kernel) -> bool:
    """Whether all blocks are of `row_math`."""
    return bool(kernel.blocks) and all(kernel.name(block).startswith(PREFIX) for block in kernel.blocks)


def candidates(kernel: Kernel, unit: VectorUnit) -> list[Tiling]:
    """There is nothing to choose."""
    return [Tiling()]


def apply(kernel: Kernel, tiling: Tiling, unit: VectorUnit, num_threads: int) -> None:
    """Schedules the kernel: each step on its own, rows shared out where they are worth it."""
    schedule = kernel.schedule
    for block in kernel.blocks:
        if block not in kernel.reductions:
            kernel.vectorize_tail(block, unit.lanes)
            continue
        num_spatial = len(kernel.spatial_extents(block))
        *outer, lane, reduced = schedule.get_loops(block)
        if kernel.name(block).endswith("_parts") and num_spatial > 1:
            schedule.reorder(reduced, lane)
            schedule.vectorize(lane)
            schedule.decompose_reduction(block, reduced)
        if outer and num_threads > 1 and kernel.num_steps >= PARALLEL_STEPS:
            schedule.parallel(outer[0])
