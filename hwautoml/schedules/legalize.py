"""Tensor expressions for the operators that have schedules of their own.

Weights are constants, so they are laid out for the vector unit while compiling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from tvm import relax, te, tirx, topi

from hwautoml.schedules import row_math, vector_math, winograd
from hwautoml.schedules.convolutions import depthwise_conv2d, packed_conv2d, packed_dense
from hwautoml.schedules.expressions import constant_array
from hwautoml.schedules.vector_unit import VectorUnit
from hwautoml.schedules.winograd import Transforms

#: TVM's "output may be fused with what is computed element by element from it".
_OUT_ELEMENTWISE_FUSABLE = {"op_pattern": 4}
_OPAQUE = {"op_pattern": 8}

Legalizer = Callable[[relax.BlockBuilder, relax.Call], relax.Expr]


def legalizers(unit: VectorUnit) -> Mapping[str, Legalizer]:
    """What ``relax.transform.LegalizeOps`` should do differently for this vector unit."""

    def for_unit(legalize: Callable[..., relax.Expr]) -> Legalizer:
        return lambda builder, call: legalize(builder, call, unit)

    return {
        "relax.nn.conv2d": for_unit(_conv2d),
        "relax.matmul": for_unit(_matmul),
        "relax.nn.softmax": for_unit(_softmax),
        "relax.nn.layer_norm": for_unit(_layer_norm),
        "relax.round": _float_unary(_round),
        "relax.exp": _float_unary(vector_math.elementwise_exp),
        "relax.sigmoid": _float_unary(vector_math.elementwise_sigmoid),
        "relax.nn.silu": _float_unary(vector_math.elementwise_silu),
        "relax.nn.gelu": _float_unary(vector_math.elementwise_gelu),
        "relax.tanh": _float_unary(topi.fast_tanh),
        "relax.erf": _float_unary(topi.fast_erf),
    }


def packed_weights(weights: np.ndarray, unit: VectorUnit) -> np.ndarray:
    """`pack_weights` as is best for the unit: bytes in fours and int16 in pairs where vectors come out even.

    Where the unit reads data for two fours at once, and inputs are enough, those are an axis of their own:
    (blocks, height, width, inputs / 8, 2, lanes, 4).
    """
    inputs, outputs = weights.shape[-2:]
    for dtype, products, together in ((np.int8, unit.byte_products, 4), (np.int16, unit.pair_products, 2)):
        lanes = whole_vectors(products, outputs) if weights.dtype == dtype else None
        if lanes:
            packed = pack_weights(weights, lanes, together=together)
            if dtype == np.int8 and unit.num_fours > 1 and inputs % (4 * unit.num_fours) == 0:
                return packed.reshape(*packed.shape[:3], -1, unit.num_fours, lanes, 4)
            return packed
    return pack_weights(weights, packing_lanes(outputs, unit))


def whole_vectors(products: Sequence[tuple[int, str]], outputs: int) -> int | None:
    """The most lanes of an instruction of ``products`` that make up so many outputs."""
    return max((lanes for lanes, _ in products if outputs % lanes == 0), default=None)


def pack_weights(weights: np.ndarray, lanes: int, *, together: int = 1) -> np.ndarray:
    """(height, width, inputs, outputs) to (blocks, height, width, inputs, lanes), zero-padded.

    ``together`` (2 or 4) inputs may lie side by side: (blocks, height, width, inputs / 2, lanes, 2).
    """
    height, width, inputs, outputs = weights.shape
    blocks = -(-outputs // lanes)
    groups = -(-inputs // together)
    padded = np.zeros((height, width, groups * together, blocks * lanes), weights.dtype)
    padded[:, :, :inputs, :outputs] = weights
    split = padded.reshape(height, width, groups, together, blocks, lanes)
    packed = split.transpose(4, 0, 1, 2, 5, 3)
    return np.ascontiguousarray(packed if together > 1 else packed[..., 0])


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
    dtype = str(call.args[0].ty.dtype)
    if not nhwc or weights is None or str(call.ty.dtype) != "float32" or dtype not in ("float32", "int16"):
        return _default(builder, call)
    strides, padding, dilation = (
        [int(value) for value in values] for values in (attrs.strides, attrs.padding, attrs.dilation)
    )
    groups = int(attrs.groups)
    inputs, outputs = weights.shape[2:]
    if inputs == 1 and outputs == groups > 1:
        filters = relax.const(np.ascontiguousarray(weights[:, :, 0, :]), "float32")
        shape = (strides, padding, dilation)
        return fusable_call(builder, depthwise_conv2d, call.args[0], filters, *shape, hint="depthwise_conv2d")
    plain = groups == 1 and strides == dilation == [1, 1]
    transforms = winograd_transforms(call, weights.shape, unit) if plain else None
    if transforms is not None:
        return _winograd(builder, call, weights, padding, unit, transforms)
    lanes = _group_lanes(outputs // groups, unit)
    array = packed_weights(weights, unit) if groups == 1 else pack_weights(weights, lanes)
    packed = relax.const(array, str(weights.dtype))
    room = groups > 1 or has_room(outputs, unit)
    arguments = (call.args[0], packed, outputs, strides, padding, dilation, groups, room)
    hint = "packed_conv2d" if groups == 1 else "grouped_conv2d"
    return fusable_call(builder, packed_conv2d, *arguments, hint=hint)


def winograd_transforms(call: relax.Call, shape: tuple[int, ...], unit: VectorUnit) -> Transforms | None:
    """The tiles in which a 3 x 3 convolution of stride 1 takes least time, or None where that is as it stands."""
    kernel, (inputs, outputs) = shape[:2], shape[2:]
    extents = [_static(extent) for extent in call.ty.shape]
    if kernel != (3, 3) or inputs % unit.lanes or outputs % unit.lanes or 0 in extents:
        return None
    return winograd.fastest(extents, inputs, unit)


def _winograd(
    builder: relax.BlockBuilder,
    call: relax.Call,
    weights: np.ndarray,
    padding: list[int],
    unit: VectorUnit,
    transforms: Transforms,
) -> relax.Expr:
    """Three functions: the tiles of the input, their products with the filters', the pixels of the result."""
    batch, height, width, _ = (_static(extent) for extent in call.ty.shape)
    number = batch * winograd.num_tiles(height, transforms) * winograd.num_tiles(width, transforms)
    filters = relax.const(winograd.transformed_weights(weights, unit.lanes, transforms), "float32")

    def into_tiles(data: te.Tensor) -> te.Tensor:
        return winograd.input_tiles(data, height, width, padding, transforms)

    def into_pixels(tiles: te.Tensor) -> te.Tensor:
        return winograd.output_pixels(tiles, batch, height, width, transforms)

    tiles = builder.emit(
        builder.call_te(into_tiles, call.args[0], primfunc_name_hint="winograd_input", primfunc_attrs=_OPAQUE)
    )
    products = builder.emit(
        builder.call_te(
            winograd.products, tiles, filters, number, primfunc_name_hint="winograd_products", primfunc_attrs=_OPAQUE
        )
    )
    return fusable_call(builder, into_pixels, products, hint="winograd_output")


def _static(extent: tirx.PrimExpr) -> int:
    """0 where known only at run time."""
    return int(extent) if isinstance(extent, tirx.IntImm) else 0


def _group_lanes(outputs: int, unit: VectorUnit) -> int:
    """Numbers per packed vector, so that whole vectors make up a group's outputs."""
    return max(size for size in range(1, unit.lanes + 1) if outputs % size == 0)


def _matmul(builder: relax.BlockBuilder, call: relax.Call, unit: VectorUnit) -> relax.Expr:
    weights, dtype = constant_array(call.args[1]), str(call.args[0].ty.dtype)
    if weights is None or weights.ndim != 2 or int(call.args[0].ty.ndim) not in (2, 3):
        return _default(builder, call)
    if str(call.ty.dtype) != "float32" or dtype not in ("float32", "int16"):
        return _default(builder, call)
    outputs = weights.shape[1]
    packed = packed_weights(weights[None, None], unit)
    constant = relax.const(np.ascontiguousarray(packed[:, 0, 0]), dtype)
    arguments = (call.args[0], constant, outputs, has_room(outputs, unit))
    return fusable_call(builder, packed_dense, *arguments, hint="packed_dense")


def _softmax(builder: relax.BlockBuilder, call: relax.Call, unit: VectorUnit) -> relax.Expr:
    rank = int(call.args[0].ty.ndim)
    if int(call.attrs.axis) % rank != rank - 1 or str(call.ty.dtype) != "float32":
        return _default(builder, call)
    arguments = (call.args[0], unit.lanes)
    return builder.call_te(row_math.softmax, *arguments, primfunc_name_hint="softmax", primfunc_attrs=_OPAQUE)


def _layer_norm(builder: relax.BlockBuilder, call: relax.Call, unit: VectorUnit) -> relax.Expr:
    attrs, rank = call.attrs, int(call.args[0].ty.ndim)
    over_rows = [int(axis) % rank for axis in attrs.axes] == [rank - 1]
    if not over_rows or not attrs.center or not attrs.scale or str(call.ty.dtype) != "float32":
        return _default(builder, call)
    arguments = (*call.args, float(attrs.epsilon), unit.lanes)
    return builder.call_te(row_math.layer_norm, *arguments, primfunc_name_hint="layer_norm", primfunc_attrs=_OPAQUE)


def _default(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """What TVM itself would do with the call."""
    return call.op.get_attr("FLegalize")(builder, call)


def _float_unary(compute: Callable[[te.Tensor], te.Tensor]) -> Legalizer:
    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        if str(call.ty.dtype) != "float32":
            return _default(builder, call)
        return builder.call_te(compute, call.args[0], primfunc_name_hint=compute.__name__)

    return legalize


def _round(data: te.Tensor) -> te.Tensor:
    """To the nearest even number, as ONNX rounds: LLVM's nearbyint, which TVM's own of that name keeps from vectors."""
    return te.compute(data.shape, lambda *index: tirx.round(data(*index)), name="round")


def fusable_call(
    builder: relax.BlockBuilder, compute: Callable[..., te.Tensor], *arguments: object, hint: str
) -> relax.Expr:
    """A call of a new function that what is computed element by element from its result may be fused with."""
    return builder.call_te(compute, *arguments, primfunc_name_hint=hint, primfunc_attrs=_OUT_ELEMENTWISE_FUSABLE)
