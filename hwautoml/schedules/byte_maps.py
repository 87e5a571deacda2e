"""Quantised maps as bytes, where the vector unit has a product that sums four of them.

`quantized` leaves centred maps in int16 (their zero point differs, so that their numbers may need nine bits), which
convolutions and matrix products multiply in pairs or one by one. Here the maps that such products read are shifted into
the byte that the instruction takes, ``stored = centred + shift``, and padded with ``shift``, which stands for zero.
A product of the stored map is larger by ``shift`` times the sum of its weights: that is known, and taken off each sum.
All of it is integers, so results are those of int16 to the last digit. Whoever else reads the map, such as a sum of
two maps, subtracts the shift again.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from hwautoml.schedules.convolutions import packed_conv2d, packed_dense
from hwautoml.schedules.expressions import constant_array, is_call
from hwautoml.schedules.legalize import fusable_call, has_room, packed_weights, whole_vectors
from hwautoml.schedules.vector_unit import VectorUnit


def with_byte_maps(module: tvm.IRModule, unit: VectorUnit) -> tvm.IRModule:
    """``module`` (relax in NHWC, before legalisation) with the products that the unit has for bytes."""
    if not unit.byte_products:
        return module
    maps = _ByteMaps(module, unit)
    for variable, function in module.functions.items():
        if isinstance(function, relax.Function):
            maps.rewrite(variable, function)
    return relax.transform.DeadCodeElimination()(maps.builder_.get())


@mutator
class _ByteMaps(PyExprMutator):  # type: ignore[misc]  # TVM is untyped
    """Rewrites the maps of ``_shifts`` where they are made, and then where they are read."""

    def __init__(self, module: tvm.IRModule, unit: VectorUnit) -> None:
        super().__init__(module)
        self._unit = unit
        self._shifts: dict[relax.Var, int] = {}
        self._stored: dict[relax.Var, relax.Var] = {}

    def rewrite(self, variable: tvm.ir.GlobalVar, function: relax.Function) -> None:
        """Replaces a function of the module."""
        values = relax.analysis.get_var2val(function)
        read = [call.args[0] for call in values.values() if _weights(call, self._unit) is not None]
        shifts = {data: _shift(values, data, self._unit) for data in read if isinstance(data, relax.DataflowVar)}
        self._shifts = {data: shift for data, shift in shifts.items() if shift is not None}
        self.builder_.update_func(variable, self.visit_expr(function))

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """The map, as it is stored."""
        if binding.var not in self._shifts:
            super().visit_var_binding_(binding)
            return
        centred = self._emit(self.visit_expr(binding.value))
        shifted = self._emit(relax.op.add(centred, _int16(self._shifts[binding.var])))
        self._stored[binding.var] = self._emit(relax.op.astype(shifted, self._unit.byte_dtype))

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """A product of bytes, in place of one of int16."""
        weights = _weights(call, self._unit)
        if weights is None or call.args[0] not in self._stored:
            return super().visit_call_(call)
        data, shift, outputs = self._stored[call.args[0]], self._shifts[call.args[0]], weights.shape[-1]
        excess = shift * weights.sum(axis=(0, 1, 2), dtype="int64")
        offsets = relax.const((-excess).astype("int32"), "int32")
        packed, room = packed_weights(weights, self._unit), has_room(outputs, self._unit)
        if is_call(call, "relax.matmul"):
            matrix = relax.const(np.ascontiguousarray(packed[:, 0, 0]), "int8")
            arguments = (data, matrix, outputs, room, offsets)
            return fusable_call(self.builder_, packed_dense, *arguments, hint="packed_dense")
        attrs, filters = call.attrs, relax.const(packed, "int8")
        sizes = ([int(size) for size in sizes] for sizes in (attrs.strides, attrs.padding, attrs.dilation))
        arguments = (data, filters, outputs, *sizes, 1, room, offsets, shift)
        return fusable_call(self.builder_, packed_conv2d, *arguments, hint="packed_conv2d")

    def visit_dataflow_var_(self, variable: relax.DataflowVar) -> relax.Expr:
        """The centred map once more, for what is no product; in each place anew, so that it is fused there."""
        if variable not in self._stored:
            return super().visit_dataflow_var_(variable)
        widened = self._emit(relax.op.astype(self._stored[variable], "int16"))
        return self._emit(relax.op.subtract(widened, _int16(self._shifts[variable])))

    def _emit(self, expression: relax.Expr) -> relax.Var:
        return self.builder_.emit(self.builder_.normalize(expression))


def _weights(call: relax.Expr, unit: VectorUnit) -> np.ndarray | None:
    """(height, width, inputs, outputs), int8, of a product that the unit has an instruction for."""
    is_matmul = is_call(call, "relax.matmul")
    if not is_matmul and not is_call(call, "relax.nn.conv2d"):
        return None
    weights = constant_array(call.args[1])
    if weights is None or weights.dtype != np.int16 or not np.array_equal(weights, weights.astype("int8")):
        return None
    if is_matmul:
        is_plain = weights.ndim == 2 and int(call.args[0].ty.ndim) in (2, 3)
        weights = weights[None, None]
    else:
        layouts = str(call.attrs.data_layout), str(call.attrs.kernel_layout)
        is_plain = layouts == ("NHWC", "HWIO") and int(call.attrs.groups) == 1
    fits = is_plain and str(call.ty.dtype) == "float32" and whole_vectors(unit.byte_products, weights.shape[-1])
    return weights.astype("int8") if fits else None


def _shift(values: Mapping[relax.Var, relax.Expr], data: relax.Expr, unit: VectorUnit) -> int | None:
    """What is added to a centred map so that each of its numbers is a byte; None for other maps than `quantize`'s."""

    def bound(value: relax.Expr | None, name: str) -> tuple[relax.Expr | None, float]:
        if value is None or not is_call(value, name):
            return None, np.nan
        limit = constant_array(value.args[1])
        return (None, np.nan) if limit is None or limit.size != 1 else (value.args[0], float(limit.reshape(())))

    centred = values.get(data)
    while centred is not None and (is_call(centred, "relax.permute_dims") or is_call(centred, "relax.reshape")):
        centred = values.get(centred.args[0])
    if centred is None or not is_call(centred, "relax.astype"):
        return None
    floored, high = bound(values.get(centred.args[0]), "relax.minimum")
    _, low = bound(values.get(floored) if floored is not None else None, "relax.maximum")
    if not (high - low <= 255):
        return None
    return (0 if unit.byte_dtype == "uint8" else -128) - int(low)


def _int16(number: int) -> relax.Constant:
    return relax.const(np.int16(number), "int16")
