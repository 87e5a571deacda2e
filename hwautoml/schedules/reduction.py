"""Means and sums over all pixels: vectors along the channels, pixels one after another."""

from __future__ import annotations

from hwautoml.schedules.convolutions import PACKED
from hwautoml.schedules.kernel import Kernel
from hwautoml.schedules.tiling import Tiling, divisors
from hwautoml.schedules.vector_unit import VectorUnit

NAME = "reduction"
_MAX_VECTORS = 8


def fits(kernel: Kernel) -> bool:
    """Whether the function reduces pixels of (n, h, w, c) (or rows of (n, c)) and keeps c."""
    if len(kernel.reductions) != 1 or kernel.name(kernel.reduction) == PACKED:
        return False
    if kernel.before or kernel.far or not kernel.near:
        return False
    block = kernel.schedule.get(kernel.reduction)
    spatial = [variable for variable in block.iter_vars if int(variable.iter_type) == 0]
    contiguous = block.reads[0].region[-1].min.same_as(spatial[-1].var)
    shape, result = (
        kernel.spatial_extents(kernel.reduction),
        kernel.spatial_extents(kernel.near[-1]),
    )
    return contiguous and 0 not in shape[1:] and result[-1] == shape[-1]


def candidates(kernel: Kernel, unit: VectorUnit) -> list[Tiling]:
    """Channels handled at once, widest first."""
    channels = kernel.num_channels
    sizes = [size for size in divisors(channels, _MAX_VECTORS * unit.lanes) if size % unit.lanes == 0] or [
        divisors(channels, 2 * unit.lanes)[-1]
    ]
    return [Tiling(channels=size, lanes=size) for size in reversed(sizes)]


def apply(kernel: Kernel, tiling: Tiling, unit: VectorUnit, num_threads: int) -> None:
    """Schedules the kernel; too little work to be worth several threads."""
    schedule, reduction = kernel.schedule, kernel.reduction
    kernel.inline(kernel.near[:-1])
    tile, vector = schedule.split(schedule.get_loops(kernel.near[-1])[-1], [None, tiling.channels])
    schedule.compute_at(reduction, tile, preserve_unit_loops=True)
    num_spatial = len(kernel.spatial_extents(reduction))
    num_reduced = len(kernel.reduction_extents(reduction))
    inside = schedule.get_loops(reduction)[-(num_spatial + num_reduced) :]
    spatial, reduced = inside[:num_spatial], inside[num_spatial:]
    schedule.reorder(*reduced, *spatial)
    schedule.vectorize(spatial[-1])
    schedule.vectorize(vector)
    schedule.set_scope(reduction, 0, "local")
    schedule.decompose_reduction(reduction, reduced[0])
