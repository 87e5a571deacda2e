"""Tensor expressions of convolutions and matrix products on channels-last data and packed weights."""

from __future__ import annotations

import tvm
from tvm import te, tirx, topi

#: Names of the blocks that `hwautoml.schedules.kernel` looks for.
PACKED, DEPTHWISE, PADDING = "packed", "depthwise", "padding"
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
) -> te.Tensor:
    """(n, h, w, groups x inputs) with (blocks, kh, kw, inputs, lanes) to (n, oh, ow, outputs).

    Blocks belong to the groups in turn: no block has outputs of two groups.
    """
    blocks, kernel_height, kernel_width, inputs, lanes = (int(size) for size in weights.shape)
    kernel = (kernel_height, kernel_width)
    height, width = _output_size(data, kernel, strides, padding, dilation)
    blocks_per_group = blocks // groups
    if kernel == (1, 1) and strides == [1, 1] and not any(padding) and groups == 1:
        return _pointwise_conv2d(data, weights, outputs, has_room)
    data = _padded(data, padding)
    row = te.reduce_axis((0, kernel_height), "kernel_row")
    column = te.reduce_axis((0, kernel_width), "kernel_column")
    channel = te.reduce_axis((0, inputs), "input_channel")
    packed = te.compute(
        (data.shape[0], roomy(height, has_room), roomy(width, has_room), blocks, lanes),
        lambda n, h, w, block, lane: te.sum(
            data[
                n,
                clamped(h, height, has_room) * strides[0] + row * dilation[0],
                clamped(w, width, has_room) * strides[1] + column * dilation[1],
                channel if groups == 1 else block // blocks_per_group * inputs + channel,
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
        place = clamped(pixel, num_pixels, has_room)
        value = data[n, place // width, place % width, channel]
        return te.sum(value * weights[block, 0, 0, channel, lane], axis=channel)

    packed = te.compute(
        (batch, roomy(num_pixels, has_room), blocks, lanes), element, name=PACKED
    )
    return te.compute(
        (batch, height, width, outputs),
        lambda n, h, w, c: packed[n, h * width + w, c // lanes, c % lanes],
        name="crop",
    )


def packed_dense(
    data: te.Tensor, weights: te.Tensor, outputs: int, has_room: bool
) -> te.Tensor:
    """([batch,] rows, inputs) with (blocks, inputs, lanes) to ([batch,] rows, outputs)."""
    blocks, inputs, lanes = (int(size) for size in weights.shape)
    *batch, rows, _ = data.shape
    channel = te.reduce_axis((0, inputs), "input_channel")

    def element(*index: tirx.Var) -> tirx.PrimExpr:
        *outer, row, block, lane = index
        value = data[(*outer, clamped(row, rows, has_room), channel)]
        return te.sum(value * weights[block, channel, lane], axis=channel)

    packed = te.compute((*batch, roomy(rows, has_room), blocks, lanes), element, name=PACKED)
    return te.compute(
        (*batch, rows, outputs),
        lambda *index: packed[(*index[:-1], index[-1] // lanes, index[-1] % lanes)],
        name="crop",
    )


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
