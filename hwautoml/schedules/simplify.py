"""Graph clean-up: operators are rewritten so that layouts flow and nothing is left to fold.

``relax.transform.FoldConstant`` compiles and runs one function per constant expression
(seconds for a small network); the few kinds that occur in an exported network are folded
here with numpy instead.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm.s_tir import Schedule

from hwautoml.schedules import quantized
from hwautoml.schedules.expressions import constant_array, is_call, scalar, static_shape

#: An image with fewer channels than this is normalised row by row (see `_widen`).
_NARROW_CHANNELS = 8


def simplify(module: tvm.IRModule) -> tvm.IRModule:
    """``module`` (relax, before legalisation) with the rewrites of this file applied."""
    functions = {
        variable: (_Simplifier(module).visit_expr(function) if isinstance(function, relax.Function) else function)
        for variable, function in module.functions.items()
    }
    clean = [
        relax.transform.Normalize(),
        relax.transform.CanonicalizeBindings(),
        relax.transform.DeadCodeElimination(),
    ]
    return tvm.transform.Sequential(clean)(tvm.IRModule(functions, attrs=module.attrs))


@mutator
class _Simplifier(PyExprMutator):  # type: ignore[misc]  # TVM is untyped
    """Visits calls in order; a rule sees arguments with variables traced back to their value."""

    def __init__(self, module: tvm.IRModule) -> None:
        super().__init__(module)
        self.module = module

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """The call, or what it is replaced by."""
        call = super().visit_call_(call)
        if not isinstance(call.op, tvm.ir.Op):
            return call
        values = [self.trace(argument) for argument in call.args]
        folded = _fold(call, values)
        if folded is not None:
            return relax.const(folded, str(folded.dtype))
        rule = _RULES.get(call.op.name)
        replacement = rule(self, call, values) if rule is not None else None
        return call if replacement is None else replacement

    def trace(self, expression: relax.Expr) -> relax.Expr:
        """The expression a variable is bound to, through any chain of aliases."""
        while isinstance(expression, relax.Var):
            bound = self.lookup_binding(expression)
            if bound is None:
                return expression
            expression = bound
        return expression

    def emit(self, expression: relax.Expr) -> relax.Var:
        """``expression`` bound to a new variable (nested calls are not normal form)."""
        return self.builder_.emit(self.builder_.normalize(expression))


Rule = Callable[[_Simplifier, relax.Call, list[relax.Expr]], "relax.Expr | None"]


def _fold(call: relax.Call, values: list[relax.Expr]) -> np.ndarray | None:
    """The value of a call whose arguments are all constant, for the kinds known here."""
    name = call.op.name
    if name == "relax.dequantize":
        return quantized.folded(call, values)
    if name == "relax.shape_to_tensor":
        if not is_call(values[0], "relax.shape_of"):
            return None
        shape = static_shape(values[0].args[0])
        return None if shape is None else np.array(shape, "int64")
    if name == "relax.reshape":
        data, shape = constant_array(values[0]), static_shape(call)
        return data.reshape(shape) if data is not None and shape is not None else None
    folder = _FOLDERS.get(name)
    arrays = [constant_array(value) for value in values]
    if folder is None or not arrays or any(array is None for array in arrays):
        return None
    return np.ascontiguousarray(folder(call.attrs, *arrays)).astype(call.ty.dtype.dtype)


def _fold_where(_: tvm.ir.Attrs, condition: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where(condition, a, b)


def _fold_take(attrs: tvm.ir.Attrs, data: np.ndarray, indices: np.ndarray) -> np.ndarray:
    return np.take(data, indices, axis=None if attrs.axis is None else int(attrs.axis))


_FOLDERS: dict[str, Callable[..., np.ndarray]] = {
    "relax.add": lambda _, a, b: a + b,
    "relax.subtract": lambda _, a, b: a - b,
    "relax.multiply": lambda _, a, b: a * b,
    "relax.divide": lambda _, a, b: a / b,
    "relax.isnan": lambda _, a: np.isnan(a),
    "relax.less": lambda _, a, b: a < b,
    "relax.where": _fold_where,
    "relax.sqrt": lambda _, a: np.sqrt(a),
    "relax.astype": lambda _, a: a,
    "relax.take": _fold_take,
    "relax.permute_dims": lambda attrs, a: a.transpose(
        None if attrs.axes is None else [int(axis) for axis in attrs.axes]
    ),
}


def _clip(mutator: _Simplifier, call: relax.Call, values: list[relax.Expr]) -> relax.Expr:
    """``clip`` has no layout inference in TVM: every one would leave two transposes behind."""
    low, high = scalar(values[1]), scalar(values[2])
    data, dtype = call.args[0], str(call.ty.dtype)
    floored = relax.op.nn.relu(data) if low == 0 else relax.op.maximum(data, relax.const(low, dtype))
    return relax.op.minimum(mutator.emit(floored), relax.const(high, dtype))


def _imported_clip(mutator: _Simplifier, call: relax.Call, values: list[relax.Expr]) -> relax.Expr | None:
    """The importer writes ONNX's Clip as calls of low-level functions, opaque to layouts."""
    function = mutator.module[call.args[0]]
    if not isinstance(function, tirx.PrimFunc):
        return None
    data, *bounds = call.args[1].fields
    kind, bound = _comparison(function)
    if kind is None or len(bounds) > 1:
        return None
    if bounds:
        array = constant_array(mutator.trace(bounds[0]))
        bound = float(array.reshape(())) if array is not None and array.size == 1 else None
    if bound is None or not tvm_ffi.structural_equal(data.ty.shape, call.ty.shape):
        return None
    if kind is tirx.Max and bound == 0:
        return relax.op.nn.relu(data)
    operator = relax.op.maximum if kind is tirx.Max else relax.op.minimum
    return operator(data, relax.const(bound, str(call.ty.dtype)))


def _comparison(function: tirx.PrimFunc) -> tuple[type | None, float | None]:
    """(tirx.Max or tirx.Min, bound if it is a literal) of a function that is only that."""
    schedule = Schedule(tvm.IRModule({"main": function}))
    blocks = schedule.get_child_blocks(schedule.get_sblock("root"))
    body = schedule.get(blocks[0]).body if len(blocks) == 1 else None
    if not isinstance(body, tirx.BufferStore) or not isinstance(body.value, tirx.Max | tirx.Min):
        return None, None
    operand = body.value.b
    return type(body.value), float(operand.value) if isinstance(operand, tirx.FloatImm) else None


def _divide(_: _Simplifier, call: relax.Call, values: list[relax.Expr]) -> relax.Expr | None:
    """Division by a constant number: multiplication is several times cheaper per vector."""
    divisor = constant_array(values[1])
    if divisor is None or divisor.size != 1 or divisor.dtype.kind != "f" or not divisor.all():
        return None
    reciprocal = (1.0 / divisor.astype("float64")).astype(divisor.dtype)
    return relax.op.multiply(call.args[0], relax.const(reciprocal, str(reciprocal.dtype)))


def _max(mutator: _Simplifier, call: relax.Call, values: list[relax.Expr]) -> relax.Expr | None:
    """The importer stacks the operands of ONNX's Max along a fifth axis, for which images have no layout."""
    stacked = values[0]
    if not is_call(stacked, "relax.stack") or int(stacked.attrs.axis) != 0 or bool(call.attrs.keepdims):
        return None
    if call.attrs.axis is None or [int(axis) for axis in call.attrs.axis] != [0]:
        return None
    operands = list(getattr(mutator.trace(stacked.args[0]), "fields", ()))
    result = None
    for operand in operands:
        value = mutator.trace(operand)
        spread = mutator.trace(value.args[0]) if is_call(value, "relax.broadcast_to") else value
        array = constant_array(spread)
        if array is not None and array.dtype.kind == "f" and np.all(array == np.finfo(array.dtype).min):
            continue  # nothing is smaller
        result = operand if result is None else mutator.emit(relax.op.maximum(result, operand))
    return result


def _take(_: _Simplifier, call: relax.Call, values: list[relax.Expr]) -> relax.Expr | None:
    """torch exports adaptive pooling as a gather of every element in order: a reshape."""
    indices, shape = constant_array(values[1]), static_shape(call.args[0])
    if indices is None or shape is None or len(shape) != 1 or indices.size != shape[0]:
        return None
    if not np.array_equal(indices.reshape(-1), np.arange(shape[0])):
        return None
    return _reshaped(call.args[0], values[0], indices.shape)


def _reshape(_: _Simplifier, call: relax.Call, values: list[relax.Expr]) -> relax.Expr | None:
    target = static_shape(call)
    return None if target is None else _reshaped(call.args[0], values[0], target)


def _reshaped(data: relax.Expr, traced: relax.Expr, target: tuple[int, ...]) -> relax.Expr:
    """``data`` in shape ``target``, looking through an earlier reshape, dropping idle ones."""
    if is_call(traced, "relax.reshape"):
        data = traced.args[0]
    return data if static_shape(data) == tuple(target) else relax.op.reshape(data, target)


def _permute(mutator: _Simplifier, call: relax.Call, values: list[relax.Expr]) -> relax.Expr | None:
    """Transposes that undo each other, or that move only axes of length one, are no transposes."""
    data, axes, shape = call.args[0], _axes(call), static_shape(call.args[0])
    if is_call(values[0], "relax.permute_dims"):
        inner = _axes(values[0])
        data, axes = values[0].args[0], [inner[axis] for axis in axes]
        shape = static_shape(data)
        if axes == sorted(axes):
            return data
    if shape is not None:
        moved = [axis for axis in axes if shape[axis] != 1]
        if moved == sorted(moved):
            return _reshaped(data, mutator.trace(data), tuple(shape[axis] for axis in axes))
    return relax.op.permute_dims(data, axes)


def _axes(call: relax.Call) -> list[int]:
    rank = int(call.args[0].ty.ndim)
    if call.attrs.axes is None:
        return list(reversed(range(rank)))
    return [int(axis) % rank for axis in call.attrs.axes]


def _per_channel(mutator: _Simplifier, call: relax.Call, values: list[relax.Expr]) -> relax.Expr | None:
    """Arithmetic with per-channel constants, moved to where it is cheapest."""
    hoisted = _hoist(mutator, call, values)
    return _widen(mutator, call, values) if hoisted is None else hoisted


def _hoist(mutator: _Simplifier, call: relax.Call, values: list[relax.Expr]) -> relax.Expr | None:
    """Arithmetic on a transposed image is done before the transpose, which then cancels."""
    constant = constant_array(values[1]) if len(values) > 1 else np.zeros(())
    if not is_call(values[0], "relax.permute_dims") or constant is None:
        return None
    source = values[0].args[0]
    if _axes(values[0]) != [0, 3, 1, 2] or static_shape(call) != static_shape(values[0]):
        return None
    if constant.size != 1 and constant.shape[-3:] != (constant.size, 1, 1):
        return None
    arguments = [source]
    if len(values) > 1:
        flat = constant.reshape(-1) if constant.size > 1 else constant.reshape(())
        arguments.append(relax.const(flat, str(constant.dtype)))
    moved = mutator.emit(relax.Call(call.op, arguments, call.attrs))
    widened = _widen(mutator, mutator.trace(moved), [mutator.trace(arg) for arg in arguments])
    inner = moved if widened is None else mutator.emit(widened)
    return relax.op.permute_dims(inner, [0, 3, 1, 2])


def _widen(mutator: _Simplifier, call: relax.Call, values: list[relax.Expr]) -> relax.Expr | None:
    """Per-channel arithmetic on a (N, H, W, 3) image, done on rows of W x 3 numbers.

    Three channels fill no vector; a row does, with the constants repeated along it.
    """
    shape = static_shape(call)
    constant = constant_array(values[1]) if len(values) > 1 else None
    if shape is None or len(shape) != 4 or constant is None or constant.size < 2:
        return None
    channels = shape[3]
    per_channel = constant.ndim >= 1 and constant.size == constant.shape[-1] == channels
    if not per_channel or channels >= _NARROW_CHANNELS or static_shape(call.args[0]) != shape:
        return None
    data = values[0]
    rows = (shape[0], shape[1], shape[2] * channels)
    flat = data.args[0] if is_call(data, "relax.reshape") else call.args[0]
    if static_shape(flat) != rows:
        flat = mutator.emit(relax.op.reshape(call.args[0], rows))
    tiled = relax.const(np.tile(constant.reshape(-1), shape[2]), str(constant.dtype))
    return relax.op.reshape(mutator.emit(relax.Call(call.op, [flat, tiled], call.attrs)), shape)


_RULES: dict[str, Rule] = {
    "relax.clip": _clip,
    "relax.divide": _divide,
    "relax.max": _max,
    "relax.take": _take,
    "relax.reshape": _reshape,
    "relax.permute_dims": _permute,
    "relax.call_tir": _imported_clip,
    "relax.astype": _hoist,
    "relax.round": _hoist,
    "relax.maximum": _hoist,
    "relax.minimum": _hoist,
    "relax.quantize": quantized.quantize,
    "relax.dequantize": quantized.dequantize,
    "relax.nn.conv2d": quantized.conv2d,
    "relax.matmul": quantized.matmul,
    "relax.add": _per_channel,
    "relax.subtract": _per_channel,
    "relax.multiply": _per_channel,
}
