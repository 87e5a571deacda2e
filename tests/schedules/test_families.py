"""Each kind of kernel on drawn shapes and with drawn candidates of its design space, against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from hwautoml.schedules import winograd
from hwautoml.schedules.host import resolve_target
from hwautoml.schedules.vector_unit import vector_unit
from tests.compilers.graphs import GraphBuilder
from tests.schedules.single import HOST, assert_candidates_agree

# Rows of one number are normalised to nothing; what we compare with did not always take them.
REFUSES_ROWS_OF_ONE = tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 23)
CANDIDATE = st.integers(0, 400)
CHANNELS = st.sampled_from([1, 3, 4, 7, 8, 10, 12, 16, 24, 37, 40, 56, 96])
SIDE = st.integers(1, 15)


def few(max_examples: int) -> Any:
    suppressed = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=max_examples, deadline=None, suppress_health_check=suppressed, derandomize=True)


def check_convolution(folder: Path, shape: tuple[int, ...], conv: dict[str, int], choose: int) -> dict[str, str]:
    graph = GraphBuilder(shape)
    result = graph.activation(graph.conv("images", shape[1], **conv), "relu")
    return assert_candidates_agree(graph.save(folder / "conv.onnx", result, rank=4), choose)


DENSE = {
    "batch": st.sampled_from([1, 1, 3]),
    "inputs": CHANNELS,
    "outputs": CHANNELS,
    "height": SIDE,
    "width": SIDE,
    "kernel": st.sampled_from([1, 1, 3, 5]),
    "stride": st.sampled_from([1, 2]),
    "choose": CANDIDATE,
}


def dense(folder: Path, batch: int, inputs: int, outputs: int, height: int, width: int, **rest: int) -> None:
    choose = rest.pop("choose")
    families = check_convolution(folder, (batch, inputs, height, width), {"outputs": outputs, **rest}, choose)
    assert "packed" in families.values()


@few(6)
@given(**DENSE)
def test_packed(tmp_path: Path, **drawn: int) -> None:
    dense(tmp_path, **drawn)


@pytest.mark.slow
@few(120)
@given(**DENSE)
def test_packed_on_many_shapes(tmp_path: Path, **drawn: int) -> None:
    dense(tmp_path, **drawn)


TILES = {
    "batch": st.sampled_from([1, 1, 2]),
    "inputs": st.sampled_from([16, 24, 32, 64]),
    "outputs": st.sampled_from([16, 32, 40, 64]),
    "height": st.integers(3, 19),
    "width": st.integers(3, 19),
    "padding": st.sampled_from([0, 1, 1, 2]),
    "choose": CANDIDATE,
}


def tiles(
    folder: Path, batch: int, inputs: int, outputs: int, height: int, width: int, padding: int, choose: int
) -> None:
    """A 3 x 3 convolution, in tiles where the rule says so, its result added to: the sum is fused with the way back."""
    graph = GraphBuilder((batch, inputs, height, width))
    x = graph.node("Conv", "images", graph.random(outputs, inputs, 3, 3), graph.random(outputs), pads=[padding] * 4)
    x = graph.activation(graph.node("Add", x, graph.random(1, outputs, 1, 1)), "hardswish")
    families = assert_candidates_agree(graph.save(folder / "tiles.onnx", x, rank=4), choose, tolerance=1e-5)
    unit = vector_unit(resolve_target(HOST, 1))
    extents = (batch, height + 2 * padding - 2, width + 2 * padding - 2, outputs)
    fills_vectors = inputs % unit.lanes == 0 and outputs % unit.lanes == 0
    is_tiled = fills_vectors and winograd.fastest(extents, inputs, unit) is not None
    assert "packed" in families.values() and ("tile_transforms" in families.values()) == is_tiled


@few(2)
@given(**TILES)
@example(batch=1, inputs=32, outputs=32, height=16, width=15, padding=1, choose=0)
def test_tiles(tmp_path: Path, **drawn: int) -> None:
    tiles(tmp_path, **drawn)


@pytest.mark.slow
@few(60)
@given(**TILES)
def test_tiles_of_many_shapes(tmp_path: Path, **drawn: int) -> None:
    tiles(tmp_path, **drawn)


WINDOWS = {
    "channels": CHANNELS,
    "height": SIDE,
    "width": SIDE,
    "kernel": st.sampled_from([3, 5, 7]),
    "stride": st.sampled_from([1, 2]),
    "choose": CANDIDATE,
}


def windows(folder: Path, channels: int, height: int, width: int, kernel: int, stride: int, choose: int) -> None:
    conv = {"outputs": channels, "kernel": kernel, "stride": stride, "groups": channels}
    check_convolution(folder, (1, channels, height, width), conv, choose)


@few(5)
@given(**WINDOWS)
@example(channels=24, height=1, width=2, kernel=5, stride=2, choose=0)  # to one pixel
@example(channels=7, height=1, width=1, kernel=3, stride=1, choose=5)
def test_depthwise(tmp_path: Path, **drawn: int) -> None:
    windows(tmp_path, **drawn)


@pytest.mark.slow
@few(80)
@given(**WINDOWS)
def test_depthwise_on_many_shapes(tmp_path: Path, **drawn: int) -> None:
    windows(tmp_path, **drawn)


@few(5)
@given(
    groups=st.integers(2, 6),
    inputs=st.integers(1, 9),
    outputs=st.integers(1, 17),
    side=SIDE,
    kernel=st.sampled_from([1, 3]),
    stride=st.sampled_from([1, 2]),
    choose=CANDIDATE,
)
def test_grouped_convolutions_are_no_depthwise_ones(
    tmp_path: Path, groups: int, inputs: int, outputs: int, side: int, kernel: int, stride: int, choose: int
) -> None:
    """Of one input or more per group, of one output or more: none is taken for another."""
    conv = {"outputs": groups * outputs, "kernel": kernel, "stride": stride, "groups": groups}
    families = check_convolution(tmp_path, (1, groups * inputs, side, side), conv, choose)
    if (inputs, outputs) != (1, 1):
        assert "packed" in families.values() and "windowed" not in families.values()


@few(4)
@given(
    batch=st.integers(1, 3),
    rows=st.integers(1, 20),
    inner=st.integers(1, 40),
    columns=st.integers(1, 40),
    choose=CANDIDATE,
)
def test_products_with_constants_and_of_activations(
    tmp_path: Path, batch: int, rows: int, inner: int, columns: int, choose: int
) -> None:
    graph = GraphBuilder((batch, rows, inner))
    right = graph.node("MatMul", "images", graph.random(inner, columns))  # (batch, rows, columns)
    left = graph.node("Transpose", "images", perm=[0, 2, 1])  # (batch, inner, rows)
    path = graph.save(tmp_path / "product.onnx", graph.node("MatMul", left, right), rank=3)
    families = assert_candidates_agree(path, choose)
    assert "packed" in families.values()
    if rows > 1:
        assert "matmul" in families.values()


@few(4)
@given(shape=st.lists(st.integers(1, 6), min_size=1, max_size=2), columns=st.sampled_from([1, 5, 8, 16, 48, 77]))
def test_rows(tmp_path: Path, shape: list[int], columns: int) -> None:
    """Softmax and layer normalisation of any rank, of rows that vectors do and do not make up."""
    assume(columns > 1 or not REFUSES_ROWS_OF_ONE)
    graph = GraphBuilder((*shape, columns))
    scale, shift = graph.random(columns), graph.random(columns)
    normal = graph.node("LayerNormalization", "images", scale, shift, axis=-1, epsilon=1e-5)
    path = graph.save(tmp_path / "rows.onnx", graph.node("Softmax", normal, axis=-1), rank=len(shape) + 1)
    assert set(assert_candidates_agree(path, 0).values()) == {"row_reductions"}


def test_layer_normalisation_of_a_constant_row_is_its_shift(tmp_path: Path) -> None:
    graph = GraphBuilder((2, 16))
    same = graph.node("Mul", "images", graph.constant(np.zeros(16, "float32")))
    normal = graph.node("LayerNormalization", same, graph.random(16), graph.random(16), axis=-1)
    assert_candidates_agree(graph.save(tmp_path / "rows.onnx", normal), 0)


@pytest.mark.parametrize("num_threads", [1, 2])
def test_batch_of_images(tmp_path: Path, num_threads: int) -> None:
    graph = GraphBuilder((4, 24, 17, 17))
    x = graph.activation(graph.conv("images", 24, 48, 1), "relu")
    x = graph.conv(graph.conv(x, 48, 48, 3, groups=48), 48, 40, 3, 2)
    assert_candidates_agree(graph.save(tmp_path / "batch.onnx", x, rank=4), 3, num_threads=num_threads)
