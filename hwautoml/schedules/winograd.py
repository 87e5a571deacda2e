"""3 x 3 convolutions in fewer multiplications, as tensor expressions (Lavin & Gray 2016, arXiv:1509.09308).

A tile of outputs is computed from a tile of inputs two pixels larger: both are transformed along rows and columns, and
between the transforms every element of a tile is a matrix product of its own, input by output channels. A tile of
4 x 4 takes 36 multiplications per pair of channels where the convolution takes 144, and 2 x 2 takes 16 instead of 36.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import te, tirx, topi

from hwautoml.schedules.convolutions import PACKED, PADDING, clamped, roomy
from hwautoml.schedules.vector_unit import VectorUnit

#: Names of the blocks that `hwautoml.schedules.tile_transforms` looks for.
INPUT_ROWS, INPUT_COLUMNS, OUTPUT_ROWS = "winograd_input_rows", "winograd_input_columns", "winograd_output_rows"

#: Numbers whose distance is a multiple of this lie in the same few lines of a cache.
_CONFLICT = 256


#: One element of a tile's row or column, by its place.
Element = Callable[[int], "tirx.PrimExpr"]


@dataclass(frozen=True)
class Transforms:
    """Matrices of one tile size: ``data`` (size, size), ``filters`` (size, 3), ``result`` (outputs, size)."""

    data: np.ndarray
    filters: np.ndarray
    result: np.ndarray

    @property
    def outputs(self) -> int:
        """Pixels of the result along a side of a tile."""
        return len(self.result)

    @property
    def size(self) -> int:
        """Pixels of the input along a side of a tile."""
        return len(self.data)


TILES_OF_2 = Transforms(
    data=np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], "float64"),
    filters=np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], "float64"),
    result=np.array([[1, 1, 1, 0], [0, 1, -1, -1]], "float64"),
)
TILES_OF_4 = Transforms(
    data=np.array(
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ],
        "float64",
    ),
    filters=np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], "float64") / 24,
    result=np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], "float64"),
)


#: What `fastest` takes a core to be, measured on AVX2 (Zen 3): cycles per vector multiply-add of a product, per vector
#: of a tile that is transformed, and bytes of weights per cycle that come from beyond the second-level cache.
_PRODUCT_CYCLES, _TRANSFORM_CYCLES, _BYTES_PER_CYCLE = 0.55, 8.0, 8.0
_NEAR_CACHE_BYTES = 1 << 19


def fastest(shape: Sequence[int], inputs: int, unit: VectorUnit) -> Transforms | None:
    """Which tiles a result of ``shape`` (n, h, w, outputs) is estimated to be computed in fastest; None: in none."""
    batch, height, width, outputs = shape
    pairs = inputs * outputs

    def cycles(transforms: Transforms | None) -> float:
        if transforms is None:
            return batch * height * width * 9 * pairs / unit.lanes * _PRODUCT_CYCLES + _weights_cycles(9 * pairs)
        tiles = batch * num_tiles(height, transforms) * num_tiles(width, transforms)
        per_place = tiles * (pairs * _PRODUCT_CYCLES + (inputs + outputs) * _TRANSFORM_CYCLES) / unit.lanes
        return transforms.size**2 * per_place + _weights_cycles(transforms.size**2 * pairs)

    return min((None, TILES_OF_2, TILES_OF_4), key=cycles)


def _weights_cycles(number: int) -> float:
    return 4 * number / _BYTES_PER_CYCLE if 4 * number > _NEAR_CACHE_BYTES else 0.0


def transformed_weights(weights: np.ndarray, lanes: int, transforms: Transforms) -> np.ndarray:
    """(3, 3, inputs, outputs) to (size x size, blocks, inputs, lanes); ``outputs`` is a multiple of ``lanes``."""
    inputs, outputs = weights.shape[2:]
    tiles = np.einsum("xr,ys,rsio->xyio", transforms.filters, transforms.filters, weights.astype("float64"))
    split = tiles.reshape(transforms.size**2, inputs, outputs // lanes, lanes)
    return np.ascontiguousarray(split.transpose(0, 2, 1, 3).astype("float32"))


def num_tiles(extent: int, transforms: Transforms) -> int:
    """How many tiles cover so many pixels of the result."""
    return -(-extent // transforms.outputs)


def input_tiles(data: te.Tensor, height: int, width: int, padding: list[int], transforms: Transforms) -> te.Tensor:
    """(n, h, w, channels) to (size x size, n x tiles or one more, channels), for ``height`` x ``width`` result pixels.

    One more, which nothing reads, where the elements of a tile would otherwise lie a power of two apart: they would
    share a few lines of the cache.
    """
    batch, rows, columns, channels = (int(extent) for extent in data.shape)
    across, size, step = num_tiles(width, transforms), transforms.size, transforms.outputs
    down = num_tiles(height, transforms)
    top, left = padding[:2]
    bottom, right = down * step + 2 - rows - top, across * step + 2 - columns - left
    if str(data.dtype) != "float32":  # integers: their transforms are none
        data = topi.cast(data, "float32")
    padded = topi.nn.pad(data, [0, top, left, 0], [0, bottom, right, 0], name=PADDING)

    def row(tile: tirx.Var, x: tirx.Var, y: tirx.Var, c: tirx.Var) -> tirx.PrimExpr:
        image, place = tile // (down * across), tile % (down * across)
        first_row, first_column = place // across * step, place % across * step
        return _product(transforms.data, x, lambda k: padded[image, first_row + k, first_column + y, c])

    by_rows = te.compute((batch * down * across, size, size, channels), row, name=INPUT_ROWS)
    number = batch * down * across
    return te.compute(
        (size * size, number + (number * channels % _CONFLICT == 0), channels),
        lambda place, tile, c: _product(
            transforms.data, place % size, lambda k: by_rows[tirx.min(tile, number - 1), place // size, k, c]
        ),
        name=INPUT_COLUMNS,
    )


def products(tiles: te.Tensor, weights: te.Tensor, number: int) -> te.Tensor:
    """(places, tiles, inputs) with (places, blocks, inputs, lanes) to (places, ``number`` of tiles, blocks x lanes)."""
    places, blocks, inputs, lanes = (int(size) for size in weights.shape)
    channel = te.reduce_axis((0, inputs), "input_channel")
    packed = te.compute(
        (places, roomy(number, True), blocks, lanes),
        lambda place, tile, block, lane: te.sum(
            tiles[place, clamped(tile, number, True), channel] * weights[place, block, channel, lane], axis=channel
        ),
        name=PACKED,
    )
    return te.compute(
        (places, number, blocks * lanes),
        lambda place, tile, c: packed[place, tile, c // lanes, c % lanes],
        name="crop",
    )


def output_pixels(tiles: te.Tensor, batch: int, height: int, width: int, transforms: Transforms) -> te.Tensor:
    """(size x size, n x tiles, channels) to (n, height, width, channels)."""
    _, number, channels = (int(extent) for extent in tiles.shape)
    down, across = num_tiles(height, transforms), num_tiles(width, transforms)
    size, step = transforms.size, transforms.outputs
    by_rows = te.compute(
        (number, step, size, channels),
        lambda tile, row, y, c: _product(transforms.result, row, lambda k: tiles[k * size + y, tile, c]),
        name=OUTPUT_ROWS,
    )

    def pixel(n: tirx.Var, h: tirx.Var, w: tirx.Var, c: tirx.Var) -> tirx.PrimExpr:
        tile = (n * down + h // step) * across + w // step
        return _product(transforms.result, w % step, lambda k: by_rows[tile, h % step, k, c])

    return te.compute((batch, height, width, channels), pixel, name="winograd_output")


def _product(matrix: np.ndarray, row: tirx.PrimExpr, element: Element) -> tirx.PrimExpr:
    """Row ``row`` of ``matrix`` times the vector of ``element(k)``; once ``row`` is a constant the others vanish."""
    *others, last = [_weighted_sum(coefficients, element) for coefficients in matrix]
    result = last
    for number, value in reversed(list(enumerate(others))):
        result = tirx.Select(row == number, value, result)
    return result


def _weighted_sum(coefficients: np.ndarray, element: Element) -> tirx.PrimExpr:
    """Even and odd places apart: rows of a transform come in pairs that differ in the sign of one of the two."""
    parts = [part for start in (0, 1) if (part := _terms(coefficients, start, element)) is not None]
    (sign, value), *others = parts
    for other_sign, other in others:
        value = value + other if other_sign == sign else value - other
    return value if sign > 0 else -value


def _terms(coefficients: np.ndarray, start: int, element: Element) -> tuple[float, tirx.PrimExpr] | None:
    """(sign, sum whose last coefficient is positive) over every second place; None where all are zero."""
    places = [place for place in range(start, len(coefficients), 2) if coefficients[place]]
    if not places:
        return None
    sign = 1.0 if coefficients[places[-1]] > 0 else -1.0
    total = None
    for place in reversed(places):
        factor = float(coefficients[place]) * sign
        if total is None:
            total = element(place) if factor == 1 else element(place) * tirx.const(factor, "float32")
        elif abs(factor) == 1:
            total = total + element(place) if factor > 0 else total - element(place)
        else:
            total = total + element(place) * tirx.const(factor, "float32")
    return sign, total
