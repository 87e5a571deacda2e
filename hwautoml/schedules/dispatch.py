"""Which schedule family a function belongs to, and what happens to those with none."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import tvm

from hwautoml.schedules import (
    elementwise,
    matmul,
    packed,
    reduction,
    row_reductions,
    tile_transforms,
    windowed,
)
from hwautoml.schedules.kernel import SCHEDULING_ERRORS, Kernel, is_static
from hwautoml.schedules.tiling import Tiling
from hwautoml.schedules.vector_unit import VectorUnit

_LOGGER = logging.getLogger(__name__)
_MAX_TRIED = 8


class Family(Protocol):
    """A kind of function and the schedules it can have (each is a file of this folder)."""

    NAME: str

    def fits(self, kernel: Kernel) -> bool: ...

    def candidates(self, kernel: Kernel, unit: VectorUnit) -> list[Tiling]: ...

    def apply(self, kernel: Kernel, tiling: Tiling, unit: VectorUnit, num_threads: int) -> None: ...


FAMILIES: Sequence[Family] = (
    packed,
    matmul,
    windowed,
    reduction,
    row_reductions,
    tile_transforms,
    elementwise,
)


@dataclass(frozen=True)
class Machine:
    """What schedules are made for."""

    unit: VectorUnit
    num_threads: int = 1


def family_of(kernel: Kernel) -> Family | None:
    """The first family that covers the function, or None."""
    if kernel.has_unread_result:
        return None
    return next((family for family in FAMILIES if family.fits(kernel)), None)


def candidates(function: tvm.tirx.PrimFunc, machine: Machine) -> list[Tiling]:
    """Tilings to choose from, the fixed rule's choice first; empty where no family fits."""
    kernel = Kernel(function)
    family = family_of(kernel)
    return [] if family is None else family.candidates(kernel, machine.unit)


def is_tunable(function: tvm.tirx.PrimFunc, machine: Machine) -> bool:
    """Whether there is something to choose, and something to time it on."""
    return is_static(function) and len(candidates(function, machine)) > 1


def scheduled(function: tvm.tirx.PrimFunc, tiling: Tiling, machine: Machine) -> tvm.tirx.PrimFunc | None:
    """The function with the schedule its family makes of ``tiling``; None if that fails."""
    kernel = Kernel(function)
    family = family_of(kernel)
    return None if family is None else _applied(family, kernel, tiling, machine)


def scheduled_by_rule(function: tvm.tirx.PrimFunc, machine: Machine) -> tuple[tvm.tirx.PrimFunc | None, bool]:
    """The function with the first of its candidates that applies, None if none does; and whether tuning could help."""
    kernel = Kernel(function)
    family = family_of(kernel)
    if family is None:
        return None, False
    tilings = family.candidates(kernel, machine.unit)
    for tiling in tilings[:_MAX_TRIED]:
        result = _applied(family, kernel, tiling, machine)
        if result is not None:
            return result, len(tilings) > 1 and is_static(function)
        kernel = Kernel(function)  # half a schedule is of no use
    return None, False


def _applied(family: Family, kernel: Kernel, tiling: Tiling, machine: Machine) -> tvm.tirx.PrimFunc | None:
    try:
        family.apply(kernel, tiling, machine.unit, machine.num_threads)
        return kernel.finish()
    except SCHEDULING_ERRORS as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        _LOGGER.debug("%s cannot schedule %s: %s", family.NAME, tiling, reason)
        return None


def fallback(function: tvm.tirx.PrimFunc) -> tvm.tirx.PrimFunc:
    """A valid schedule for any function: what can be inlined is, the loops stay as they are."""
    kernel = Kernel(function)
    for block in kernel.blocks[:-1]:
        if block not in kernel.reductions and not kernel.has_condition(block):
            try:
                kernel.schedule.compute_inline(block)
            except SCHEDULING_ERRORS:
                continue
    return kernel.finish()
