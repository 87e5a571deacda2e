"""Convolutions and matrix products whose weights are packed to the vector width."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from hwautoml.schedules.convolutions import IN_EIGHTS, IN_FOURS, MAX_TILE, PACKED, PAIRED
from hwautoml.schedules.integer_products import product_of_integers
from hwautoml.schedules.kernel import Kernel
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
_MAX_ROWS = 4
_FEW_INPUTS = 4
#: What `_cycles` takes a core to be: two multiply-adds and not quite two loads a cycle, results
#: after four; a tile costs its stores and about this many cycles besides its steps.
_FMA_CYCLES, _LOAD_CYCLES, _FMA_LATENCY, _TILE_CYCLES = 0.5, 0.58, 4.0, 20.0
#: Weights larger than this are read once per channel tile, not once per pixel tile.
_NEAR_CACHE_BYTES = 1 << 19
#: The same of integers, each step of which uses up its weights faster.
_NEAREST_CACHE_BYTES = 1 << 15

_TOGETHER = {PAIRED: 2, IN_FOURS: 4, IN_EIGHTS: 8}


def fits(kernel: Kernel) -> bool:
    """Whether the function is one packed reduction, possibly with blocks around it."""
    if len(kernel.reductions) != 1 or not kernel.near:
        return False
    # How many images there are may be unknown, and how many rows of a product; three axes of pixels are of an image.
    *pixels, _, _ = kernel.spatial_extents(kernel.reduction)
    known = kernel.extents(kernel.reduction)[1 if len(pixels) == 3 else len(pixels) :]
    return kernel.name(kernel.reduction) == PACKED and 0 not in known


@dataclass(frozen=True)
class _Problem:
    """What decides which tiling is best; a matrix product, as a 1 x 1 convolution is one, has one row of pixels.

    ``has_room``: tiles may reach past the last pixel (see `legalize`), so that they need not divide.
    """

    height: int
    width: int
    channels: int
    num_blocks: int
    vector: int
    reduced: tuple[int, ...]
    has_room: bool
    has_padding: bool
    together: int

    @staticmethod
    def of(kernel: Kernel) -> _Problem:
        *pixels, num_blocks, vector = kernel.spatial_extents(kernel.reduction)
        wanted = kernel.spatial_extents(kernel.near[0])
        height, width = 1, max(1, wanted[0])
        if len(pixels) == 3:
            height, width = wanted[1:3]
        elif len(pixels) == 2:
            width = max(1, math.prod(wanted[1:-1]))
        together = num_together(kernel)
        return _Problem(
            height,
            width,
            kernel.num_channels,
            num_blocks,
            vector,
            tuple(kernel.reduction_extents(kernel.reduction)[: -num_summed_axes(together) or None]),
            has_room=pixels[-1] > width or (len(pixels) == 3 and pixels[1] > height),
            has_padding=bool(kernel.paddings()),
            together=together,
        )

    @property
    def num_steps(self) -> int:
        """Multiply-adds per output; of integers each is two or four, in one instruction, or eight in two."""
        return math.prod(self.reduced)

    @property
    def num_instructions(self) -> int:
        """Per step and vector of results."""
        return 2 if self.together == 8 else 1

    @property
    def has_product_register(self) -> bool:
        """Whether products are made by one instruction and added by another."""
        return self.together == 2


def num_together(kernel: Kernel) -> int:
    """Products of integers that are summed in one step, along the last axes of the reduction; 1: none."""
    annotations = kernel.schedule.get(kernel.reduction).annotations
    return next((number for name, number in _TOGETHER.items() if name in annotations), 1)


def num_summed_axes(together: int) -> int:
    """How many axes of the reduction are within a step."""
    return {1: 0, 2: 1, 4: 1, 8: 2}[together]


def candidates(kernel: Kernel, unit: VectorUnit) -> list[Tiling]:
    """Tilings to try, the most promising first; the first one is the fixed rule."""
    problem = _Problem.of(kernel)
    found = []
    for channels, lanes in _channel_splits(problem, unit.num_accumulators):
        blocks = -(-channels // problem.vector)
        limit = unit.num_registers - _registers_besides(problem, blocks)
        for rows, columns in _pixel_tiles(problem, max(1, limit // blocks)):
            found += _variants(problem, Tiling(rows, columns, channels, lanes))
    found.sort(key=lambda tiling: _cycles(problem, tiling, unit))
    return found


def _registers_besides(problem: _Problem, blocks: int) -> int:
    """Registers that hold no sums: one for a weight, one for an input, one for a product.

    Of eights all weights of a step, and one more: each input is used with all of them, and LLVM, once it lacks a
    register, moves half of the others around.
    """
    return 2 * blocks + 2 if problem.together == 8 else 2 + problem.has_product_register


def _pixel_tiles(problem: _Problem, limit: int) -> list[tuple[int, int]]:
    """(rows, columns) of at most ``limit`` pixels; where there is no room past the end, they divide."""
    if problem.has_room:
        rows = list(range(1, min(problem.height, _MAX_ROWS) + 1))
        columns = list(range(1, min(problem.width, MAX_TILE) + 1))
    else:
        rows, columns = divisors(problem.height, _MAX_ROWS), divisors(problem.width, MAX_TILE)
    return [(row, column) for row in rows for column in columns if row * column <= limit]


def _channel_splits(problem: _Problem, limit: int) -> list[tuple[int, int]]:
    """(channels per tile, numbers per store) to choose from."""
    channels, vector = problem.channels, problem.vector
    if channels % vector and problem.num_blocks <= limit:
        # The tile has more channels than are wanted; all of them must be in one tile.
        half = vector // 2
        return [(channels, half if half and channels % half == 0 else channels)]
    # Where whole vectors do not make up the channels, the packed result is stored as it is, and cropped afterwards.
    return [(blocks * vector, vector) for blocks in divisors(problem.num_blocks, limit)]


def _variants(problem: _Problem, tile: Tiling) -> list[Tiling]:
    """One tile with each order of loops, way of unrolling and of padding."""
    whole = tile.channels >= problem.channels or problem.height * problem.width == 1
    inputs = problem.reduced[-1]
    unrolls = (inputs,) if inputs <= _FEW_INPUTS else (4, 1) if inputs % 4 == 0 else (1,)
    if problem.together == 8 or (problem.together > 1 and inputs > _FEW_INPUTS):
        unrolls = (1,)  # LLVM would start several steps at once, for which registers are lacking
    paddings = ("apart", "tile", "inline") if problem.has_padding else ("apart",)
    return [
        replace(tile, channels_outside=outside, unroll=unroll, padding=padding)
        for outside in ((False,) if whole else (False, True))
        for unroll in unrolls
        for padding in paddings
    ]


def _cycles(problem: _Problem, tiling: Tiling, unit: VectorUnit) -> float:
    """Estimated cycles per useful vector multiply-add: what the fixed rule minimises."""
    blocks, pixels = -(-tiling.channels // problem.vector), tiling.rows * tiling.columns
    accumulators, num_weights = pixels * blocks, blocks * problem.num_instructions
    multiply_adds = accumulators * problem.num_instructions
    tiles = -(-problem.height // tiling.rows) * -(-problem.width // tiling.columns)
    step = max(_FMA_CYCLES * multiply_adds, _LOAD_CYCLES * (pixels + num_weights), _FMA_LATENCY)
    weights_in_registers = num_weights if pixels > 1 else 0
    spilled = accumulators + weights_in_registers + 1 + problem.has_product_register - unit.num_registers
    if tiling.unroll > 1:
        spilled = max(spilled, accumulators + unit.num_spare - unit.num_registers)
    step += 2 * _LOAD_CYCLES * max(0, spilled)
    per_tile = problem.num_steps * step + 2 * accumulators + _TILE_CYCLES
    cycles = per_tile * tiles / (problem.height * problem.width * blocks * problem.num_steps)
    weights_bytes = 4 * problem.num_instructions * problem.num_steps * problem.channels
    near_bytes = _NEAREST_CACHE_BYTES if problem.together > 1 else _NEAR_CACHE_BYTES
    cycles *= 1.0 if tiling.channels_outside == (weights_bytes > near_bytes) else 1.02
    cycles *= 1.0 if tiling.unroll > 1 else 1.01
    cycles *= 1.0 if tiling.columns >= tiling.rows else 1.005
    return cycles * {"apart": 1.0, "tile": 1.01, "inline": 1.1}[tiling.padding]


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
    elif len(kernel.spatial_extents(reduction)) == 4 and len(kernel.spatial_extents(output)) == 4:
        width = kernel.spatial_extents(output)[2]
        if width == 0:
            raise ValueError("an image of unknown width has no pixels in one row")
        schedule.transform_block_layout(output, lambda n, h, w, c: (n, h * width + w, c))
        # The layout stays as it is, but TVM simplifies how it is read, for without that a crop of channels hides that
        # `pixel // width * width + pixel % width` is a pixel, and tiles have no bounds.
        schedule.transform_layout(reduction, ("write", 0), lambda *indices: indices)
    loops = tile_output(kernel, output, tiling, packed=apart)
    schedule.compute_at(reduction, loops.outer[-1], preserve_unit_loops=True)
    place_paddings(kernel, loops, tiling, unit.lanes)
    if num_threads > 1 and kernel.num_steps >= PARALLEL_STEPS:
        parallelize(kernel, loops)
    _tile_reduction(kernel, loops, tiling, unit)


def _tile_reduction(kernel: Kernel, loops: TileLoops, tiling: Tiling, unit: VectorUnit) -> None:
    """Orders the loops of one tile: reduction steps, then pixels, then vectors (of pairs or fours)."""
    schedule, reduction = kernel.schedule, kernel.reduction
    num_spatial = len(kernel.spatial_extents(reduction))
    num_reduced = len(kernel.reduction_extents(reduction))
    inside = schedule.get_loops(reduction)[-(num_spatial + num_reduced) :]
    spatial, reduced = inside[:num_spatial], inside[num_spatial:]
    together = num_together(kernel)
    summed = [reduced.pop() for _ in range(num_summed_axes(together))][::-1]
    few_inputs = kernel.loop_extent(reduced[-1]) <= _FEW_INPUTS
    if tiling.unroll > 1 and not few_inputs:
        reduced[-1:] = schedule.split(reduced[-1], [None, tiling.unroll])
    schedule.reorder(*reduced, *spatial, *summed)
    if tiling.unroll > 1:
        # With few inputs (a stem), a whole row of the kernel, so that loops are no large part of the work.
        for loop in reduced[-2:] if few_inputs and num_reduced > 1 else reduced[-1:]:
            schedule.unroll(loop)
    schedule.vectorize(loops.vector)
    if not summed:
        schedule.vectorize(spatial[-1])
    for loop in [*spatial[:-1], *loops.inner]:
        schedule.unroll(loop)
    schedule.set_scope(reduction, 0, "local")
    start = schedule.decompose_reduction(reduction, reduced[0])
    if summed:
        schedule.vectorize(schedule.get_loops(start)[-1])
        schedule.tensorize(spatial[-1], product_of_integers(unit, kernel.loop_extent(spatial[-1]), together))
