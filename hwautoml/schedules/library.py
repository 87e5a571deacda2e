"""Schedules a whole module: recorded tilings where there are any, the fixed rule elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import tvm
import tvm_ffi
from tvm import relax
from tvm_ffi import VisitInterrupt, WalkResult

from hwautoml.schedules import dispatch
from hwautoml.schedules.dispatch import Machine
from hwautoml.schedules.tiling import Tiling

_LOGGER = logging.getLogger(__name__)
_SHORT_INTEGERS = ("int16", "int8", "uint8")
_ROUND = tvm.ir.Op.get("tirx.round")


@dataclass(frozen=True)
class ScheduleReport:
    """Names of the functions, by what scheduled them.

    ``untuned`` are those of ``by_rule`` that tuning could improve: there is a choice, and no record of it.
    """

    tuned: tuple[str, ...]
    by_rule: tuple[str, ...]
    fallbacks: tuple[str, ...]
    untuned: tuple[str, ...] = ()


def function_key(function: tvm.tirx.PrimFunc) -> str:
    """Equal for functions that differ only in name, or in numbers of a quantised network; stable across processes."""
    if function.attrs and "global_symbol" in function.attrs:
        function = function.without_attr("global_symbol")
    if _is_quantised(function):
        function = _without_numbers(function)
    return f"{tvm_ffi.structural_hash(function) & 0xFFFFFFFFFFFFFFFF:016x}"


def _is_quantised(function: tvm.tirx.PrimFunc) -> bool:
    """Whether a quantised map goes in, out, or is made inside (then numbers are rounded, if only as floats).

    Bytes alone are none: they may be the pixels of an image.
    """

    def has(buffers: Iterable[object], *dtypes: str) -> bool:
        return any(str(getattr(buffer, "dtype", "")) in dtypes for buffer in buffers)

    def on_call(call: tvm.ir.Call) -> WalkResult | VisitInterrupt:
        return VisitInterrupt(call) if call.op.same_as(_ROUND) else WalkResult.ADVANCE

    inside = function.body.block.alloc_buffers
    if has(function.params, "int16") or (has(function.params, "int8", "uint8") and has(inside, "int16", "int32")):
        return True
    return tvm_ffi.structural_walk(function.body, (tvm.ir.Call, on_call)) is not None


def _without_numbers(function: tvm.tirx.PrimFunc) -> tvm.tirx.PrimFunc:
    """Without scales (floats) and zero points (short integers; those of indices are long)."""

    def without(integer: tvm.tirx.IntImm) -> tvm.tirx.IntImm:
        dtype = str(integer.ty.dtype)
        return tvm.tirx.IntImm(dtype, 0) if dtype in _SHORT_INTEGERS else integer

    def zero(number: tvm.tirx.FloatImm) -> tvm.tirx.FloatImm:
        return tvm.tirx.FloatImm(str(number.ty.dtype), 0.0)

    return tvm_ffi.structural_map(function, [(tvm.tirx.IntImm, without), (tvm.tirx.FloatImm, zero)])


def functions_of(module: tvm.IRModule) -> dict[str, tvm.tirx.PrimFunc]:
    """The module's low-level functions by name."""
    return {
        variable.name_hint: function
        for variable, function in module.functions.items()
        if isinstance(function, tvm.tirx.PrimFunc)
    }


def schedule_module(
    module: tvm.IRModule, machine: Machine, tilings: Mapping[str, Tiling]
) -> tuple[tvm.IRModule, ScheduleReport]:
    """Every function of a lowered module scheduled; ``tilings`` by `function_key`."""
    done: dict[tvm.ir.GlobalVar, tvm.ir.BaseFunc] = {}
    tuned, by_rule, fallbacks, untuned = [], [], [], []
    for variable, function in module.functions.items():
        if isinstance(function, relax.Function):
            done[variable] = function
            continue
        name, recorded = variable.name_hint, tilings.get(function_key(function)) if tilings else None
        result = None
        if recorded is not None:
            result = dispatch.scheduled(function, recorded, machine)
            if result is not None:
                tuned.append(name)
        if result is None:
            result, has_choice = dispatch.scheduled_by_rule(function, machine)
            if result is not None:
                by_rule.append(name)
                if has_choice:
                    untuned.append(name)
        if result is None:
            _LOGGER.warning("no schedule family covers %s: plain loops", name)
            result = dispatch.fallback(function)
            fallbacks.append(name)
        done[variable] = result
    report = ScheduleReport(tuple(tuned), tuple(by_rule), tuple(fallbacks), tuple(untuned))
    return tvm.IRModule(done, attrs=module.attrs), report
