"""Vectors of a fixed width on processors whose vectors have none (RISC-V's V extension).

There TVM 0.27 makes vector loops run over as many numbers as the processor likes, with masked stores that a later pass
of its own trips over. Our tiles are made for the width that the target promises, and LLVM makes fixed vectors of that
width into the same instructions. So TVM's passes are not told of the extension, and LLVM is.
"""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import tirx
from tvm.target import codegen

Lower = Callable[[tvm.IRModule], tvm.IRModule]


def with_fixed_vectors(lower: Lower) -> Lower:
    """``lower``, on functions that are bound to a target, for vectors as they are scheduled."""

    def lowered(module: tvm.IRModule) -> tvm.IRModule:
        targets = [function.attrs["target"] for function in module.functions.values() if _is_bound(function)]
        if not targets or not _has_scalable_vectors(targets[0]):
            return lower(module)
        fixed = _without_scalable_vectors(targets[0])
        with fixed:
            result = lower(_bound(module, fixed))
        return _bound(result, _host(targets[0]))

    return lowered


def _is_bound(function: tvm.ir.BaseFunc) -> bool:
    return isinstance(function, tirx.PrimFunc) and function.attrs is not None and "target" in function.attrs


def _bound(module: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    result = tvm.IRModule(module.functions, attrs=module.attrs)
    for variable, function in module.functions.items():
        if isinstance(function, tirx.PrimFunc):
            result.update_func(variable, function.with_attr("target", target))
    return result


def _has_scalable_vectors(target: tvm.target.Target) -> bool:
    is_riscv = str(target.attrs.get("mtriple") or "").startswith("riscv")
    return is_riscv and bool(codegen.target_has_features("v", target))


def _host(target: tvm.target.Target) -> tvm.target.Target:
    """What compiled functions are bound to."""
    return target if target.host is None else target.host


def _without_scalable_vectors(target: tvm.target.Target) -> tvm.target.Target:
    description = {name: value for name, value in _host(target).export().items() if name not in ("host", "tag", "keys")}
    features = [*map(str, description.get("mattr", [])), "-v"]  # the last one counts, whatever ``mcpu`` says
    fixed = tvm.target.Target({**description, "mattr": features})
    return fixed.with_host(fixed)
