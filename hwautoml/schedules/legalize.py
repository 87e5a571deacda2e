"""Tensor expressions for the operators that have schedules of their own.

Weights are constants, so they are laid out for the vector unit while compiling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import tvm
from tvm import relax, te, tirx, topi

from hwautoml.schedules import vector_math
from hwautoml.schedules.simplify import constant_array
from hwautoml.schedules.vector_unit import VectorUnit

#: Names of the blocks that `hwautoml.schedules.kernel` looks for.
PACKED, DEPTHWISE, PADDING = "packed", "depthwise", "padding"
#: Pixels along an axis that a tile may have; see `_roomy`.
MAX_TILE = 16
#: TVM's "output may be fused with what is computed element by element from it".
_OUT_ELEMENTWISE_FUSABLE = {"op_pattern": 4}
_OPAQUE = {"op_pattern": 8}

Legalizer = Callable[[relax.BlockBuilder, relax.Call], relax.Expr]


def legalizers(unit: VectorUnit) -> Mapping[str, Legalizer]:
    """What ``relax.transform.LegalizeOps`` should do differently for this vector unit."""

    def conv2d(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        return _conv2d(builder, call, unit)

    def matmul(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        return _matmul(builder, call, unit)

    return {
        "relax.nn.conv2d": conv2d,
        "relax.matmul": matmul,
        "relax.nn.softmax": _softmax,
        "relax.exp": _float_unary(vector_math.elementwise_exp),
        "relax.sigmoid": _float_unary(vector_math.elementwise_sigmoid),
        "relax.nn.silu": _float_unary(vector_math.elementwise_silu),
        "relax.tanh": _float_unary(topi.fast_tanh),
    }


def pack_weights(weights: np.ndarray, lanes: int) -> np.ndarray:
    """(height, width, inputs, outputs) to (blocks, height, width, inputs, lanes), zero-padded."""
    height, width, inputs, outputs = weights.shape
    blocks = -(-outputs // lanes)
    padded = np.zeros((height, width, inputs, blocks * lanes), weights.dtype)
    padded[..., :outputs] = weights
    split = padded.reshape(height, width, inputs, blocks, lanes)
    return np.ascontiguousarray(split.transpose(3, 0, 1, 2, 4))


def packing_lanes(outputs: int, unit: VectorUnit) -> int:
    """Numbers per packed vector: half of one where whole ones would be wasted or awkward.

    A tile must hold all channels when their number is no multiple of the vector, so layers
    with very many of those use half vectors as well.
    """
    half = unit.lanes // 2
    if outputs <= half:
        return half
    too_wide = outputs > unit.lanes * unit.num_accumulators // 2
    awkward = outputs % unit.lanes and outputs % half == 0
    return half if awkward and too_wide else unit.lanes


def has_room(outputs: int, unit: VectorUnit) -> bool:
    """Whether tiles may reach past the last pixel; not where the packed result itself is stored.

    That is where a tile cannot hold all channels and their number is no multiple of a vector.
    """
    lanes = packing_lanes(outputs, unit)
    return outputs % lanes == 0 or -(-outputs // lanes) <= unit.num_accumulators


def _conv2d(builder: relax.BlockBuilder, call: relax.Call, unit: VectorUnit) -> relax.Expr:
    attrs, weights = call.attrs, constant_array(call.args[1])
    nhwc = str(attrs.data_layout) == "NHWC" and str(attrs.kernel_layout) == "HWIO"
    if not nhwc or weights is None or str(call.ty.dtype) != "float32":
        return _default(builder, call)
    strides, padding, dilation = (
        [int(value) for value in values]
        for values in (attrs.strides, attrs.padding, attrs.dilation)
    )
    groups = int(attrs.groups)
    inputs, outputs = weights.shape[2:]
    if groups == 1:
        packed = relax.const(pack_weights(weights, packing_lanes(outputs, unit)), "float32")
        arguments = (call.args[0], packed, outputs, strides, padding, dilation, has_room(outputs, unit))
        return _call(builder, packed_conv2d, *arguments, hint="packed_conv2d")
    if inputs == 1 and outputs == groups:
        filters = relax.const(np.ascontiguousarray(weights[:, :, 0, :]), "float32")
        arguments = (call.args[0], filters, strides, padding, dilation)
        return _call(builder, depthwise_conv2d, *arguments, hint="depthwise_conv2d")
    return _default(builder, call)


def _matmul(builder: relax.BlockBuilder, call: relax.Call, unit: VectorUnit) -> relax.Expr:
    weights = constant_array(call.args[1])
    if weights is None or weights.ndim != 2 or int(call.args[0].ty.ndim) != 2:
        return _default(builder, call)
    if str(call.ty.dtype) != "float32":
        return _default(builder, call)
    outputs = weights.shape[1]
    packed = pack_weights(weights[None, None], packing_lanes(outputs, unit))
    constant = relax.const(np.ascontiguousarray(packed[:, 0, 0]), "float32")
    arguments = (call.args[0], constant, outputs, has_room(outputs, unit))
    return _call(builder, packed_dense, *arguments, hint="packed_dense")


def _softmax(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    rank = int(call.args[0].ty.ndim)
    last = int(call.attrs.axis) % rank == rank - 1
    if rank != 2 or not last or str(call.ty.dtype) != "float32":
        return _default(builder, call)
    return builder.call_te(
        vector_math.softmax_rows,
        call.args[0],
        primfunc_name_hint="softmax_rows",
        primfunc_attrs=_OPAQUE,
    )


def _default(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """What TVM itself would do with the call."""
    return call.op.get_attr("FLegalize")(builder, call)


def _float_unary(compute: Callable[[te.Tensor], te.Tensor]) -> Legalizer:
    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        if str(call.ty.dtype) != "float32":
            return _default(builder, call)
        return builder.call_te(compute, call.args[0], primfunc_name_hint=compute.__name__)

    return legalize


def _call(
    builder: relax.BlockBuilder, compute: Callable[..., te.Tensor], *arguments: object, hint: str
) -> relax.Expr:
    return builder.call_te(
        compute, *arguments, primfunc_name_hint=hint, primfunc_attrs=_OUT_ELEMENTWISE_FUSABLE
    )


def packed_conv2d(
    data: te.Tensor,
    weights: te.Tensor,
    outputs: int,
    strides: list[int],
    padding: list[int],
    dilation: list[int],
    has_room: bool,
) -> te.Tensor:
    """(n, h, w, inputs) with (blocks, kh, kw, inputs, lanes) to (n, oh, ow, outputs)."""
    blocks, kernel_height, kernel_width, inputs, lanes = (int(size) for size in weights.shape)
    kernel = (kernel_height, kernel_width)
    height, width = _output_size(data, kernel, strides, padding, dilation)
    if kernel == (1, 1) and strides == [1, 1] and not any(padding):
        return _pointwise_conv2d(data, weights, outputs, has_room)
    data = _padded(data, padding)
    row = te.reduce_axis((0, kernel_height), "kernel_row")
    column = te.reduce_axis((0, kernel_width), "kernel_column")
    channel = te.reduce_axis((0, inputs), "input_channel")
    packed = te.compute(
        (data.shape[0], _roomy(height, has_room), _roomy(width, has_room), blocks, lanes),
        lambda n, h, w, block, lane: te.sum(
            data[
                n,
                _clamped(h, height, has_room) * strides[0] + row * dilation[0],
                _clamped(w, width, has_room) * strides[1] + column * dilation[1],
                channel,
            ]
            * weights[block, row, column, channel, lane],
            axis=[row, column, channel],
        ),
        name=PACKED,
    )
    return te.compute(
        (data.shape[0], height, width, outputs),
        lambda n, h, w, c: packed[n, h, w, c // lanes, c % lanes],
        name="crop",
    )


def _pointwise_conv2d(
    data: te.Tensor, weights: te.Tensor, outputs: int, has_room: bool
) -> te.Tensor:
    """A 1 x 1 convolution: the pixels of an image are the rows of one matrix product."""
    blocks, _, _, inputs, lanes = (int(size) for size in weights.shape)
    batch, height, width, _ = data.shape
    num_pixels = height * width
    channel = te.reduce_axis((0, inputs), "input_channel")

    def element(n: tirx.Var, pixel: tirx.Var, block: tirx.Var, lane: tirx.Var) -> tirx.PrimExpr:
        place = _clamped(pixel, num_pixels, has_room)
        value = data[n, place // width, place % width, channel]
        return te.sum(value * weights[block, 0, 0, channel, lane], axis=channel)

    packed = te.compute(
        (batch, _roomy(num_pixels, has_room), blocks, lanes), element, name=PACKED
    )
    return te.compute(
        (batch, height, width, outputs),
        lambda n, h, w, c: packed[n, h * width + w, c // lanes, c % lanes],
        name="crop",
    )


def packed_dense(
    data: te.Tensor, weights: te.Tensor, outputs: int, has_room: bool
) -> te.Tensor:
    """(rows, inputs) with (blocks, inputs, lanes) to (rows, outputs)."""
    blocks, inputs, lanes = (int(size) for size in weights.shape)
    rows = data.shape[0]
    channel = te.reduce_axis((0, inputs), "input_channel")
    packed = te.compute(
        (_roomy(rows, has_room), blocks, lanes),
        lambda row, block, lane: te.sum(
            data[_clamped(row, rows, has_room), channel] * weights[block, channel, lane],
            axis=channel,
        ),
        name=PACKED,
    )
    return te.compute(
        (rows, outputs), lambda row, c: packed[row, c // lanes, c % lanes], name="crop"
    )


def _roomy(extent: tirx.PrimExpr | int, has_room: bool) -> tirx.PrimExpr | int:
    """The extent and room for tiles that do not divide it: what tiles have too much is never stored."""
    size = getattr(extent, "value", extent)
    if not has_room or not isinstance(size, int):
        return extent
    return size + min(size, MAX_TILE) - 1


def _clamped(index: tirx.PrimExpr, extent: tirx.PrimExpr | int, has_room: bool) -> tirx.PrimExpr:
    """Elements in the room beyond an extent read what the last element reads, never past the end."""
    size = getattr(extent, "value", extent)
    if not has_room or not isinstance(size, int) or size == 1:
        return index
    return tirx.min(index, size - 1)


def depthwise_conv2d(
    data: te.Tensor,
    filters: te.Tensor,
    strides: list[int],
    padding: list[int],
    dilation: list[int],
) -> te.Tensor:
    """(n, h, w, channels) with (kh, kw, channels) to (n, oh, ow, channels)."""
    kernel_height, kernel_width, channels = (int(size) for size in filters.shape)
    height, width = _output_size(data, (kernel_height, kernel_width), strides, padding, dilation)
    data = _padded(data, padding)
    row = te.reduce_axis((0, kernel_height), "kernel_row")
    column = te.reduce_axis((0, kernel_width), "kernel_column")
    return te.compute(
        (data.shape[0], height, width, channels),
        lambda n, h, w, c: te.sum(
            data[n, h * strides[0] + row * dilation[0], w * strides[1] + column * dilation[1], c]
            * filters[row, column, c],
            axis=[row, column],
        ),
        name=DEPTHWISE,
    )


def _padded(data: te.Tensor, padding: list[int]) -> te.Tensor:
    top, left, bottom, right = padding
    if not any(padding):
        return data
    return topi.nn.pad(data, [0, top, left, 0], [0, bottom, right, 0], name=PADDING)


def _output_size(
    data: te.Tensor,
    kernel: tuple[int, int],
    strides: list[int],
    padding: list[int],
    dilation: list[int],
) -> tuple[tvm.tirx.PrimExpr, tvm.tirx.PrimExpr]:
    """(height, width) of a convolution's output; integers where the input's are."""
    top, left, bottom, right = padding
    height, width = (
        int(extent) if isinstance(extent, tvm.tirx.IntImm) else extent
        for extent in (data.shape[1], data.shape[2])
    )
    return (
        (height + top + bottom - dilation[0] * (kernel[0] - 1) - 1) // strides[0] + 1,
        (width + left + right - dilation[1] * (kernel[1] - 1) - 1) // strides[1] + 1,
    )
