"""Functions without a reduction: everything inlined into one vectorised loop nest."""

from __future__ import annotations

from hwautoml.schedules.kernel import Kernel
from hwautoml.schedules.tiling import Tiling
from hwautoml.schedules.vector_unit import VectorUnit

NAME = "elementwise"
#: Fewer steps than this are done before a second thread has woken up.
_PARALLEL_STEPS = 1 << 16


def fits(kernel: Kernel) -> bool:
    """Whether no block reduces."""
    return not kernel.reductions and bool(kernel.blocks)


def candidates(kernel: Kernel, unit: VectorUnit) -> list[Tiling]:
    """There is nothing to choose."""
    return [Tiling()]


def apply(kernel: Kernel, tiling: Tiling, unit: VectorUnit, num_threads: int) -> None:
    """Schedules the kernel."""
    kernel.inline(kernel.blocks[:-1])
    output = kernel.blocks[-1]
    loops = kernel.schedule.get_loops(output)
    # Axes are joined until they fill vectors, and no further: constants repeat along rows, and an
    # index modulo the row length is no vector load.
    while len(loops) > 1 and kernel.loop_extent(loops[-1]) % max(1, unit.lanes // 2):
        loops[-2:] = [kernel.schedule.fuse(*loops[-2:])]
    if not kernel.has_condition(output):
        kernel.vectorize_tail(output, unit.lanes)
    if num_threads > 1 and kernel.num_steps >= _PARALLEL_STEPS:
        kernel.schedule.parallel(kernel.schedule.get_loops(output)[0])
