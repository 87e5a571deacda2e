"""Quantised networks (QDQ form): products of integers instead of products of what they stand for.

``quantize(x) = clip(round(x / scale) + zero)`` becomes a *centred* map, ``clip(round(x / scale))`` without the zero
point, int16 (float32 on its way into a depthwise convolution): a convolution pads it with zeros and needs no
correction. ``dequantize`` multiplies it by the scale. A convolution or matrix product of two dequantised operands is
one of their integers, whose result is scaled per output channel; with the bias and the next
``quantize`` that is one multiply-add. See Jacob et al. 2018, "Quantization and training of neural networks for
efficient integer-arithmetic-only inference", section 2.2; scales stay float32 here, as ONNX has them.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from tvm import relax

from hwautoml.schedules.expressions import constant_array, is_call

_RANGES = {"uint8": (0, 255), "int8": (-128, 127)}


class Mutator(Protocol):
    """What these rules need of the visitor that applies them."""

    def trace(self, expression: relax.Expr) -> relax.Expr: ...

    def emit(self, expression: relax.Expr) -> relax.Var: ...


def quantize(mutator: Mutator, call: relax.Call, values: list[relax.Expr]) -> relax.Expr | None:
    """A centred map, and from it what the operator promises (unused where all that follows are our rules)."""
    scale, zero, dtype = constant_array(values[1]), constant_array(values[2]), str(call.ty.dtype)
    if scale is None or zero is None or scale.size != 1 or zero.size != 1 or dtype not in _RANGES:
        return None
    low, high = (bound - int(zero.reshape(())) for bound in _RANGES[dtype])
    source = values[0]
    # What is cut off at zero anyhow need not be rectified first.
    data = source.args[0] if low == 0 and is_call(source, "relax.nn.relu") else call.args[0]
    rounded = mutator.emit(relax.op.round(_divided(mutator, data, float(scale.reshape(())))))
    floored = mutator.emit(relax.op.maximum(rounded, _float(low)))
    clipped = mutator.emit(relax.op.minimum(floored, _float(high)))
    centred = mutator.emit(relax.op.astype(clipped, "int16"))
    shifted = mutator.emit(relax.op.add(centred, relax.const(np.int16(zero.reshape(())), "int16")))
    return relax.op.astype(shifted, dtype)


def dequantize(mutator: Mutator, call: relax.Call, values: list[relax.Expr]) -> relax.Expr | None:
    """The centred map times the scale; weights stay as they are, for the product that uses them."""
    scale, zero = constant_array(values[1]), constant_array(values[2])
    if constant_array(values[0]) is not None or scale is None or zero is None or scale.size != 1 or zero.size != 1:
        return None
    if str(values[0].ty.dtype) not in _RANGES:
        return None
    centred = _centred(mutator, call.args[0], values[0], int(zero.reshape(())))
    return relax.op.multiply(mutator.emit(relax.op.astype(centred, "float32")), _float(scale))


def folded(call: relax.Call, values: list[relax.Expr]) -> np.ndarray | None:
    """The numbers that constants stand for: of biases at once, of weights where no rule of this file applies."""
    found = _weights(call, values)
    return None if found is None or found[0].ndim > 1 else _real(*found)


def conv2d(mutator: Mutator, call: relax.Call, values: list[relax.Expr]) -> relax.Expr | None:
    """A convolution (NCHW, OIHW) of integers; of float32 where its input is none."""
    found = _weights_of(mutator, values[1])
    if found is None or str(call.attrs.data_layout) != "NCHW":
        return None
    weights, scale = found
    data = _dequantized(mutator, values[0])
    if data is None:
        return relax.Call(call.op, [call.args[0], relax.const(_real(weights, scale), "float32")], call.attrs)
    (centred, data_scale), dtype = data, "int16"
    attrs, groups = call.attrs, int(call.attrs.groups)
    if groups > 1:
        # Few are summed, exactly, and no two channels together: the same integers as float32 are faster.
        centred, dtype = _as_float(mutator, centred), "float32"
    product = relax.op.nn.conv2d(
        centred,
        relax.const(weights.astype(dtype), dtype),
        attrs.strides,
        attrs.padding,
        attrs.dilation,
        groups,
        "NCHW",
        "OIHW",
        out_dtype="float32",
    )
    return relax.op.multiply(mutator.emit(product), _float(data_scale * scale.reshape(1, -1, 1, 1)))


def matmul(mutator: Mutator, call: relax.Call, values: list[relax.Expr]) -> relax.Expr | None:
    """A product with a matrix of weights, (inputs, outputs) or the transpose of (outputs, inputs)."""
    is_turned = is_call(values[1], "relax.permute_dims")
    found = _weights_of(mutator, mutator.trace(values[1].args[0]) if is_turned else values[1])
    if found is None or found[0].ndim != 2:
        return None
    weights, scale = (array.T for array in found) if is_turned else found
    data = _dequantized(mutator, values[0])
    if data is None or scale.size not in (1, scale.shape[-1]):
        return relax.op.matmul(call.args[0], relax.const(_real(weights, scale), "float32"))
    centred, data_scale = data
    product = relax.op.matmul(centred, relax.const(np.ascontiguousarray(weights), "int16"), out_dtype="float32")
    return relax.op.multiply(mutator.emit(product), _float(data_scale * scale.reshape(-1)))


def _divided(mutator: Mutator, data: relax.Expr, scale: float) -> relax.Expr:
    """``data / scale``; of a scaled product with its bias, the division is done to those constants."""
    value = mutator.trace(data)
    has_two = isinstance(value, relax.Call) and len(value.args) == 2
    constant = constant_array(mutator.trace(value.args[1])) if has_two else None
    if constant is not None and is_call(value, "relax.multiply"):
        return mutator.emit(relax.op.multiply(value.args[0], _float(constant / scale)))
    if constant is not None and is_call(value, "relax.add") and is_call(mutator.trace(value.args[0]), "relax.multiply"):
        return mutator.emit(relax.op.add(_divided(mutator, value.args[0], scale), _float(constant / scale)))
    return mutator.emit(relax.op.multiply(data, _float(1.0 / scale)))


def _centred(mutator: Mutator, data: relax.Expr, value: relax.Expr, zero: int) -> relax.Expr:
    """The int16 map that `quantize` made before it added its zero point, or one made of the integers ``data``."""
    shifted = mutator.trace(value.args[0]) if is_call(value, "relax.astype") else value
    if is_call(shifted, "relax.add") and str(shifted.ty.dtype) == "int16":
        added = constant_array(mutator.trace(shifted.args[1]))
        if added is not None and added.size == 1 and int(added.reshape(())) == zero:
            return shifted.args[0]
    widened = mutator.emit(relax.op.astype(data, "int16"))
    return mutator.emit(relax.op.subtract(widened, relax.const(np.int16(zero), "int16"))) if zero else widened


def _as_float(mutator: Mutator, centred: relax.Expr) -> relax.Expr:
    """A centred map in float32: what `quantize` made it from, where it did."""
    value = mutator.trace(centred)
    if is_call(value, "relax.astype") and str(value.args[0].ty.dtype) == "float32":
        return value.args[0]
    return mutator.emit(relax.op.astype(centred, "float32"))


def _dequantized(mutator: Mutator, value: relax.Expr) -> tuple[relax.Expr, float] | None:
    """(centred map, scale) of what `dequantize` made."""
    if not is_call(value, "relax.multiply"):
        return None
    widened, scale = mutator.trace(value.args[0]), constant_array(mutator.trace(value.args[1]))
    if not is_call(widened, "relax.astype") or str(widened.args[0].ty.dtype) != "int16":
        return None
    return None if scale is None or scale.size != 1 else (widened.args[0], float(scale.reshape(())))


def _weights_of(mutator: Mutator, value: relax.Expr) -> tuple[np.ndarray, np.ndarray] | None:
    if not is_call(value, "relax.dequantize"):
        return None
    return _weights(value, [mutator.trace(argument) for argument in value.args])


def _weights(call: relax.Call, values: list[relax.Expr]) -> tuple[np.ndarray, np.ndarray] | None:
    """(integers without zero point, scale that broadcasts to them) of constants to be dequantised."""
    integers, scale, zero = (constant_array(value) for value in values)
    if integers is None or scale is None or zero is None:
        return None
    along = [1] * integers.ndim
    if scale.size > 1:
        axis = int(call.attrs.axis) % integers.ndim
        if scale.size != integers.shape[axis] or zero.size not in (1, scale.size):
            return None  # in blocks along an axis
        along[axis] = -1
    scale, zero = (array.reshape(along if array.size > 1 else [1] * integers.ndim) for array in (scale, zero))
    dtype = "int16" if str(integers.dtype) in _RANGES else "int64"
    return integers.astype(dtype) - zero.astype(dtype), scale


def _real(integers: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return (integers * scale).astype("float32")


def _float(values: object) -> relax.Constant:
    return relax.const(np.asarray(values, "float32"), "float32")
