"""The transforms of tiles around a `winograd` convolution: a tile at a time, a vector of channels at a time."""

from __future__ import annotations

from tvm.s_tir.schedule import LoopRV, SBlockRV

from hwautoml.schedules.kernel import Kernel, is_static
from hwautoml.schedules.tiling import PADDINGS, PARALLEL_STEPS, Tiling
from hwautoml.schedules.vector_unit import VectorUnit
from hwautoml.schedules.winograd import INPUT_ROWS, OUTPUT_ROWS

NAME = "tile_transforms"
_INPUT_PADDINGS = tuple(padding for padding in PADDINGS if padding != "tile")


def fits(kernel: Kernel) -> bool:
    """Whether the function transforms tiles of inputs, or tiles of products with what follows element by element."""
    names = {kernel.name(block) for block in kernel.blocks}
    return is_static(kernel.function) and bool(names & {INPUT_ROWS, OUTPUT_ROWS})


def candidates(kernel: Kernel, unit: VectorUnit) -> list[Tiling]:
    """Tilings to try; the first one is the fixed rule."""
    lanes = Tiling(channels=unit.lanes, lanes=unit.lanes)
    if not _named(kernel, INPUT_ROWS):
        return [lanes]
    return [Tiling(channels=unit.lanes, lanes=unit.lanes, padding=padding) for padding in _INPUT_PADDINGS]


def apply(kernel: Kernel, tiling: Tiling, unit: VectorUnit, num_threads: int) -> None:
    """Schedules the kernel: rows of a tile are kept at hand for its columns, and everything is unrolled."""
    if _named(kernel, INPUT_ROWS):
        _apply_to_inputs(kernel, tiling, num_threads)
    else:
        _apply_to_outputs(kernel, tiling, num_threads)


def _apply_to_inputs(kernel: Kernel, tiling: Tiling, num_threads: int) -> None:
    schedule = kernel.schedule
    (rows,) = _named(kernel, INPUT_ROWS)
    *before, columns = [block for block in kernel.blocks if block != rows]
    for block in before:
        if tiling.padding == "inline" or not kernel.has_condition(block):
            schedule.compute_inline(block)
        else:
            kernel.vectorize_tail(block, tiling.lanes)
    size = kernel.spatial_extents(rows)[1]
    place, tile, channel = schedule.get_loops(columns)
    x, y = schedule.split(place, [size, size])
    part, vector = schedule.split(channel, [None, tiling.lanes])
    schedule.reorder(tile, part, x, y, vector)
    _tile_at(kernel, rows, part)
    _finish(kernel, [x, y], vector)
    if num_threads > 1 and kernel.num_steps >= PARALLEL_STEPS:
        schedule.parallel(tile)


def _apply_to_outputs(kernel: Kernel, tiling: Tiling, num_threads: int) -> None:
    schedule = kernel.schedule
    (rows,) = _named(kernel, OUTPUT_ROWS)
    *between, output = [block for block in kernel.blocks if block != rows]
    kernel.inline(between)
    step = kernel.spatial_extents(rows)[1]
    image, height, width, channel = schedule.get_loops(output)
    down, row = schedule.split(height, [None, step])
    across, column = schedule.split(width, [None, step])
    part, vector = schedule.split(channel, [None, tiling.lanes])
    schedule.reorder(image, down, across, part, row, column, vector)
    _tile_at(kernel, rows, part)
    _finish(kernel, [row, column], vector)
    if num_threads > 1 and kernel.num_steps >= PARALLEL_STEPS:
        schedule.parallel(schedule.fuse(image, down))


def _tile_at(kernel: Kernel, rows: SBlockRV, part: LoopRV) -> None:
    """Computes the rows of one tile, of one vector of channels, where its columns need them."""
    schedule = kernel.schedule
    schedule.compute_at(rows, part, preserve_unit_loops=True)
    *_, x, y, channel = schedule.get_loops(rows)
    schedule.set_scope(rows, 0, "local")
    _finish(kernel, [x, y], channel)


def _finish(kernel: Kernel, unrolled: list[LoopRV], vector: LoopRV) -> None:
    for loop in unrolled:
        kernel.schedule.unroll(loop)
    kernel.schedule.vectorize(vector)


def _named(kernel: Kernel, name: str) -> list[SBlockRV]:
    return [block for block in kernel.blocks if kernel.name(block) == name]
