"""Softmax over rows: two short reductions around a vectorised exponential."""

from __future__ import annotations

from hwautoml.schedules.kernel import Kernel
from hwautoml.schedules.tiling import Tiling
from hwautoml.schedules.vector_unit import VectorUnit

NAME = "softmax"


def fits(kernel: Kernel) -> bool:
    """Whether the function is what `vector_math.softmax_rows` describes."""
    names = [kernel.name(block) for block in kernel.blocks]
    return names == ["softmax_largest", "softmax_exp", "softmax_total", "softmax"]


def candidates(kernel: Kernel, unit: VectorUnit) -> list[Tiling]:
    """There is nothing to choose."""
    return [Tiling()]


def apply(kernel: Kernel, tiling: Tiling, unit: VectorUnit, num_threads: int) -> None:
    """Schedules the kernel; the reductions stay loops over one row."""
    _, powers, _, output = kernel.blocks
    for block in (powers, output):
        kernel.vectorize_tail(block, unit.lanes)
