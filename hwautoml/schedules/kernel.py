"""A fused function opened for scheduling: its blocks, sorted by the part they play."""

from __future__ import annotations

import math
from collections.abc import Sequence

import tvm
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV, ScheduleError

#: What TVM raises when a schedule primitive does not apply to a function.
SCHEDULING_ERRORS = (ScheduleError, tvm.error.InternalError, ValueError, TypeError, IndexError)

_DATA_PARALLEL, _REDUCTION = 0, 2


class Kernel:
    """One function and the schedule being built for it (primitives change it in place).

    For functions with exactly one reduction, ``before``, ``near`` and ``far`` hold the
    other blocks: what feeds it, what is computed element by element from its result, and
    what is computed at another shape from that (a squeeze-excite gate applied to an image).
    """

    def __init__(self, function: tvm.tirx.PrimFunc) -> None:
        self.function = function
        self.schedule = Schedule(tvm.IRModule({"main": function}))
        root = self.schedule.get_sblock("root")
        self.blocks: list[SBlockRV] = list(self.schedule.get_child_blocks(root))
        # Reading a block from a schedule is slow, and asked for each of them: once is enough while nothing has changed.
        axes = {block: self._axes(block) for block in self.blocks}
        #: Work of the function: steps of its largest block (0 where known only at run time).
        self.num_steps = max((math.prod(extent for extent, _ in axes[block]) for block in self.blocks), default=0)
        self.reductions = [block for block in self.blocks if _of_kind(axes[block], _REDUCTION)]
        self.before: list[SBlockRV] = []
        self.near: list[SBlockRV] = []
        self.far: list[SBlockRV] = []
        if len(self.reductions) == 1:
            position = self.blocks.index(self.reductions[0])
            self.before, after = self.blocks[:position], self.blocks[position + 1 :]
            num_near = _same_pixels([_of_kind(axes[block], _DATA_PARALLEL) for block in after])
            self.near, self.far = after[:num_near], after[num_near:]
            if self.near:  # a reduction may have room past its last pixel that is never computed
                wanted = math.prod(_of_kind(axes[self.near[0]], _DATA_PARALLEL))
                steps = wanted * math.prod(_of_kind(axes[self.reductions[0]], _REDUCTION))
                self.num_steps = min(self.num_steps, steps)

    @property
    def reduction(self) -> SBlockRV:
        """The only reduction."""
        (block,) = self.reductions
        return block

    @property
    def num_channels(self) -> int:
        """Channels of the result: the last axis of what leaves the tile."""
        block = self.near[-1] if self.near else self.reduction
        return self.spatial_extents(block)[-1]

    @property
    def has_unread_result(self) -> bool:
        """Whether a block computes what no other reads (a product with zero): tiles of it have no bounds."""
        blocks = [self.schedule.get(block) for block in self.blocks]
        used = {*self.function.params, *(region.source for block in blocks for region in block.reads)}
        return any(region.source not in used for block in blocks for region in block.writes)

    def name(self, block: SBlockRV) -> str:
        return str(self.schedule.get(block).name_hint)

    def extents(self, block: SBlockRV) -> list[int]:
        """Extents of all axes of a block; 0 where only known at run time."""
        return [extent for extent, _ in self._axes(block)]

    def spatial_extents(self, block: SBlockRV) -> list[int]:
        """Extents of the data-parallel axes of a block; 0 where only known at run time."""
        return _of_kind(self._axes(block), _DATA_PARALLEL)

    def reduction_extents(self, block: SBlockRV) -> list[int]:
        """Extents of the axes that a block sums (or maximises) over."""
        return _of_kind(self._axes(block), _REDUCTION)

    def has_condition(self, block: SBlockRV) -> bool:
        """Whether a block chooses between values, as padding and concatenation do."""
        return "if_then_else" in str(self.schedule.get(block).body)

    def paddings(self) -> list[SBlockRV]:
        """The blocks before the reduction that pad its input."""
        return [block for block in self.before if self.has_condition(block)]

    def inline(self, blocks: Sequence[SBlockRV]) -> None:
        """Computes each block inside its consumers."""
        for block in blocks:
            self.schedule.compute_inline(block)
        self.before = [block for block in self.before if block not in blocks]

    def vectorize_tail(self, block: SBlockRV, lanes: int) -> None:
        """The innermost loop of an element-by-element block as vectors, where it divides."""
        loops = self.schedule.get_loops(block)
        if not loops:
            return
        extent = self.loop_extent(loops[-1])
        if 0 < extent <= 4 * lanes:
            self.schedule.vectorize(loops[-1])
            return
        for width in (4 * lanes, 2 * lanes, lanes, lanes // 2):
            if extent and extent % width == 0:
                self.schedule.vectorize(self.schedule.split(loops[-1], [None, width])[1])
                return

    def loop_extent(self, loop: LoopRV) -> int:
        """The extent of a loop; 0 where only known at run time."""
        extent = self.schedule.get(loop).extent
        return int(extent) if isinstance(extent, tvm.tirx.IntImm) else 0

    def finish(self) -> tvm.tirx.PrimFunc:
        """The scheduled function, marked as such and named as it was."""
        result = self.schedule.mod["main"].with_attr("tirx.is_scheduled", True)
        if self.function.attrs and "global_symbol" in self.function.attrs:
            return result.with_attr("global_symbol", self.function.attrs["global_symbol"])
        return result.without_attr("global_symbol")

    def _axes(self, block: SBlockRV) -> list[tuple[int, int]]:
        """Extent (0 where only known at run time) and kind of each axis of a block, as it is now."""
        return [(_extent(variable), int(variable.iter_type)) for variable in self.schedule.get(block).iter_vars]


def is_static(function: tvm.tirx.PrimFunc) -> bool:
    """Whether every extent is known at compile time (one that is not may be a parameter that is no buffer)."""
    extents = [extent for parameter in function.params for extent in getattr(parameter, "shape", (None,))]
    return all(isinstance(extent, tvm.tirx.IntImm) for extent in extents)


def _of_kind(axes: list[tuple[int, int]], kind: int) -> list[int]:
    return [extent for extent, its_kind in axes if its_kind == kind]


def _same_pixels(shapes: list[list[int]]) -> int:
    """How many of them, from the first on, have as many pixels and channels as the first."""
    for position, shape in enumerate(shapes):
        if shape[-1:] != shapes[0][-1:] or _pixels(shape) != _pixels(shapes[0]):
            return position
    return len(shapes)


def _pixels(shape: list[int]) -> int:
    return math.prod(shape[:-1])


def _extent(variable: tvm.tirx.IterVar) -> int:
    extent = variable.dom.extent
    return int(extent) if isinstance(extent, tvm.tirx.IntImm) else 0
