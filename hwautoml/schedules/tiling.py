"""The parameters of a schedule, and the tiling that convolutions and poolings share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from hwautoml.errors import InvalidValueError

if TYPE_CHECKING:
    from tvm.s_tir.schedule import LoopRV, SBlockRV

    from hwautoml.schedules.kernel import Kernel

#: Where the padded input is made: once beforehand, per row of tiles, or nowhere (the
#: condition is evaluated at every read).
PADDINGS = ("apart", "tile", "inline")
#: Functions with fewer multiply-adds than this are done before a second thread has woken up.
PARALLEL_STEPS = 1 << 18


@dataclass(frozen=True)
class Tiling:
    """One point of a family's design space.

    ``rows`` x ``columns`` pixels of ``channels`` channels are kept in registers and
    written ``lanes`` numbers at a time. ``channels_outside`` puts the loop over channel
    tiles outside the loops over pixels; ``unroll`` repeats the innermost reduction step.
    """

    rows: int = 1
    columns: int = 1
    channels: int = 1
    lanes: int = 1
    channels_outside: bool = False
    unroll: int = 1
    padding: str = "apart"

    def __post_init__(self) -> None:
        counts = (self.rows, self.columns, self.channels, self.lanes, self.unroll)
        if min(counts) < 1 or self.channels % self.lanes or self.padding not in PADDINGS:
            raise InvalidValueError(f"not a tiling: {asdict(self)}")

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Tiling:
        """Raises InvalidValueError when ``data`` is not what `to_json` writes."""
        kinds = {field.name: type(field.default) for field in fields(Tiling)}
        if set(data) != set(kinds) or any(type(data[name]) is not kinds[name] for name in kinds):
            raise InvalidValueError(f"not a tiling: {dict(data)}")
        return Tiling(**data)


def divisors(number: int, limit: int) -> list[int]:
    """Divisors of ``number`` up to ``limit``, ascending."""
    return [value for value in range(1, min(number, limit) + 1) if number % value == 0]


@dataclass(frozen=True)
class TileLoops:
    """Loops of a tiled output: ``outer`` ones visit tiles, ``inner`` ones pixels of a tile."""

    batch: list[LoopRV]
    outer: list[LoopRV]
    inner: list[LoopRV]
    vector: LoopRV


def tile_output(kernel: Kernel, output: SBlockRV, tiling: Tiling, packed: bool = False) -> TileLoops:
    """Splits the loops of an (n, h, w, c) or (n, c) block into tiles and reorders them.

    A ``packed`` block has its channels in two loops, (..., block, lane).
    """
    schedule, vectors = kernel.schedule, tiling.channels // tiling.lanes
    if packed:
        *pixel_loops, block, vector = schedule.get_loops(output)
        tile, part = schedule.split(block, [None, vectors])
    else:
        *pixel_loops, channel = schedule.get_loops(output)
        tile, part, vector = schedule.split(channel, [None, vectors, tiling.lanes])
    sizes = [tiling.rows, tiling.columns] if len(pixel_loops) >= 3 else [tiling.columns]
    batch = pixel_loops[: -len(sizes)]
    outer, inner = [], []
    for loop, size in zip(pixel_loops[len(batch) :], sizes, strict=True):
        across, within = schedule.split(loop, [None, size])
        outer.append(across)
        inner.append(within)
    outer = [tile, *outer] if tiling.channels_outside else [*outer, tile]
    schedule.reorder(*outer, *inner, part, vector)
    return TileLoops(batch, outer, [*inner, part], vector)


def place_paddings(kernel: Kernel, loops: TileLoops, tiling: Tiling, lanes: int) -> None:
    """Schedules the blocks that pad the input as the tiling says."""
    row = loops.outer[1] if tiling.channels_outside else loops.outer[0]
    for block in kernel.paddings():
        if tiling.padding == "inline":
            kernel.schedule.compute_inline(block)
            continue
        if tiling.padding == "tile":
            kernel.schedule.compute_at(block, row, preserve_unit_loops=True)
        kernel.vectorize_tail(block, lanes)


def parallelize(kernel: Kernel, loops: TileLoops) -> None:
    """Spreads whole tiles over threads: the batch, and the outermost loop over tiles."""
    outermost = [*loops.batch, loops.outer[0]]
    fused = kernel.schedule.fuse(*outermost) if len(outermost) > 1 else outermost[0]
    kernel.schedule.parallel(fused)
