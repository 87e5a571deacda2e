"""Tensor expressions of convolutions and matrix products on channels-last data and packed weights.

Data and weights of quantised networks are int16 and summed as int32, in pairs of input channels where the vector
unit multiplies and adds those in one instruction, or bytes in fours (see `byte_maps`); results are float32 all the
same.
"""

from __future__ import annotations

import math

import tvm
from tvm import te, tirx, topi

#: Names of the blocks that `hwautoml.schedules.kernel` looks for.
PACKED, DEPTHWISE, PADDING = "packed", "depthwise", "padding"
#: Annotations of packed blocks whose last axis is over the two channels of a pair, or over four; or the last two axes
#: over twice four.
PAIRED, IN_FOURS, IN_EIGHTS = "hwautoml.paired", "hwautoml.in_fours", "hwautoml.in_eights"
#: Pixels along an axis that a tile may have; see `roomy`.
MAX_TILE = 16


def packed_conv2d(
    data: te.Tensor,
    weights: te.Tensor,
    outputs: int,
    strides: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    has_room: bool,
    offsets: te.Tensor | None = None,
    zero: int = 0,
) -> te.Tensor:
    """(n, h, w, groups x inputs) with (blocks, kh, kw, inputs, lanes) to (n, oh, ow, outputs).

    Blocks belong to the groups in turn: no block has outputs of two groups. Integer weights of one group may be packed
    in pairs, fours or eights, see `_Channels`; ``offsets``, (outputs,), are added to their sums. The data is padded
    with ``zero``.
    """
    channels = _Channels(weights, num_before=3)
    blocks, kernel_height, kernel_width, inputs = (int(size) for size in weights.shape[:4])
    kernel, lanes = (kernel_height, kernel_width), channels.lanes
    height, width = _output_size(data, kernel, strides, padding, dilation)
    blocks_per_group = blocks // groups
    if kernel == (1, 1) and strides == [1, 1] and not any(padding) and groups == 1:
        return _pointwise_conv2d(data, weights, outputs, has_room, offsets)
    data = _padded(data, padding, 0 if groups > 1 else channels.number - int(data.shape[3]), zero)
    row = te.reduce_axis((0, kernel_height), "kernel_row")
    column = te.reduce_axis((0, kernel_width), "kernel_column")

    def element(n: tirx.Var, h: tirx.Var, w: tirx.Var, block: tirx.Var, lane: tirx.Var) -> tirx.PrimExpr:
        value = data[
            n,
            clamped(h, height, has_room) * strides[0] + row * dilation[0],
            clamped(w, width, has_room) * strides[1] + column * dilation[1],
            channels.index if groups == 1 else block // blocks_per_group * inputs + channels.index,
        ]
        return te.sum(channels.product(value, (block, row, column), lane), axis=[row, column, *channels.axes])

    packed = te.compute(
        (data.shape[0], roomy(height, has_room), roomy(width, has_room), blocks, lanes),
        element,
        name=PACKED,
        attrs=channels.attrs,
    )
    return te.compute(
        (data.shape[0], height, width, outputs),
        lambda n, h, w, c: _result(packed[n, h, w, c // lanes, c % lanes], offsets, c),
        name="crop",
    )


def _pointwise_conv2d(
    data: te.Tensor, weights: te.Tensor, outputs: int, has_room: bool, offsets: te.Tensor | None
) -> te.Tensor:
    """A 1 x 1 convolution: the pixels of an image are the rows of one matrix product."""
    channels = _Channels(weights, num_before=3)
    blocks, lanes = int(weights.shape[0]), channels.lanes
    data = _padded(data, [0, 0, 0, 0], channels.number - int(data.shape[3]))
    batch, height, width, _ = data.shape
    num_pixels = height * width

    def element(n: tirx.Var, pixel: tirx.Var, block: tirx.Var, lane: tirx.Var) -> tirx.PrimExpr:
        place = clamped(pixel, num_pixels, has_room)
        value = data[n, place // width, place % width, channels.index]
        return te.sum(channels.product(value, (block, 0, 0), lane), axis=channels.axes)

    packed = te.compute(
        (batch, roomy(num_pixels, has_room), blocks, lanes),
        element,
        name=PACKED,
        attrs=channels.attrs,
    )
    return te.compute(
        (batch, height, width, outputs),
        lambda n, h, w, c: _result(packed[n, h * width + w, c // lanes, c % lanes], offsets, c),
        name="crop",
    )


def packed_dense(
    data: te.Tensor, weights: te.Tensor, outputs: int, has_room: bool, offsets: te.Tensor | None = None
) -> te.Tensor:
    """([batch,] rows, inputs) with (blocks, inputs, lanes) to ([batch,] rows, outputs); integers together as above."""
    channels = _Channels(weights, num_before=1)
    blocks, lanes = int(weights.shape[0]), channels.lanes
    lacking = channels.number - int(data.shape[-1])
    if lacking:
        data = topi.nn.pad(data, [0] * len(data.shape), [*[0] * (len(data.shape) - 1), lacking], name=PADDING)
    *batch, rows, _ = data.shape

    def element(*index: tirx.Var) -> tirx.PrimExpr:
        *outer, row, block, lane = index
        value = data[(*outer, clamped(row, rows, has_room), channels.index)]
        return te.sum(channels.product(value, (block,), lane), axis=channels.axes)

    packed = te.compute((*batch, roomy(rows, has_room), blocks, lanes), element, name=PACKED, attrs=channels.attrs)
    return te.compute(
        (*batch, rows, outputs),
        lambda *index: _result(packed[(*index[:-1], index[-1] // lanes, index[-1] % lanes)], offsets, index[-1]),
        name="crop",
    )


def _result(total: tirx.PrimExpr, offsets: te.Tensor | None, channel: tirx.Var) -> tirx.PrimExpr:
    """float32 of an output channel's sum."""
    return (total if offsets is None else total + offsets[channel]).astype("float32")


class _Channels:
    """The input channels that packed weights are for, after ``num_before`` other axes.

    Those are (..., inputs, lanes); of integers (..., pairs or fours, lanes, 2 or 4) or (..., eights, 2, lanes, 4).
    """

    def __init__(self, weights: te.Tensor, num_before: int) -> None:
        self._weights = weights
        inputs, *rest = (int(size) for size in weights.shape[num_before:])
        #: Numbers in a packed vector, and their axis among those of the channels.
        self._lane_axis = max(0, len(rest) - 2)
        self.lanes = rest.pop(self._lane_axis)
        #: As many as the weights have: a multiple of how many are together.
        self.number = inputs * math.prod(rest)
        #: Annotations of the block.
        self.attrs = {(): {}, (2,): {PAIRED: True}, (4,): {IN_FOURS: True}, (2, 4): {IN_EIGHTS: True}}[tuple(rest)]
        self.axes = [te.reduce_axis((0, inputs), "input_channel")]
        self.index = self.axes[0]
        for size in rest:
            self.axes.append(te.reduce_axis((0, size), f"one_of_{size}"))
            self.index = self.index * size + self.axes[-1]

    def product(self, value: tirx.PrimExpr, place: tuple[tirx.PrimExpr | int, ...], lane: tirx.Var) -> tirx.PrimExpr:
        """A channel's value times its weight at ``place`` for an output; of integers an integer."""
        inner = list(self.axes)
        inner.insert(1 + self._lane_axis, lane)
        weight = self._weights[(*place, *inner)]
        if str(self._weights.dtype) == "float32":
            return value * weight
        return value.astype("int32") * weight.astype("int32")


def roomy(extent: tirx.PrimExpr | int, has_room: bool) -> tirx.PrimExpr | int:
    """The extent and room for tiles that do not divide it: what tiles have too much is never stored."""
    size = getattr(extent, "value", extent)
    if not has_room or not isinstance(size, int):
        return extent
    return size + min(size, MAX_TILE) - 1


def clamped(index: tirx.PrimExpr, extent: tirx.PrimExpr | int, has_room: bool) -> tirx.PrimExpr:
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


def _padded(data: te.Tensor, padding: list[int], more_channels: int = 0, zero: int = 0) -> te.Tensor:
    top, left, bottom, right = padding
    if not any(padding) and not more_channels:
        return data
    value = tirx.const(zero, data.dtype)
    return topi.nn.pad(data, [0, top, left, 0], [0, bottom, right, more_channels], value, name=PADDING)


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
        int(extent) if isinstance(extent, tvm.tirx.IntImm) else extent for extent in (data.shape[1], data.shape[2])
    )
    return (
        (height + top + bottom - dilation[0] * (kernel[0] - 1) - 1) // strides[0] + 1,
        (width + left + right - dilation[1] * (kernel[1] - 1) - 1) // strides[1] + 1,
    )
