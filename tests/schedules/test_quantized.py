"""Quantised (QDQ) networks on drawn shapes and with drawn candidates, against ONNX Runtime's int8 kernels.

A sum that lies between two steps of the next quantisation may be rounded either way: single elements may differ by a
step or two (of up to 255), but hardly any do. Weights have seven bits, so that no kernel saturates.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from hypothesis import example, given
from hypothesis import strategies as st

from hwautoml.exporters import quantize_onnx
from hwautoml.exporters.quantization import weighted_layers
from hwautoml.schedules.host import resolve_target
from hwautoml.schedules.library import function_key, functions_of
from tests.compilers.graphs import GraphBuilder
from tests.schedules.single import HOST, assert_candidates_agree, functions
from tests.schedules.test_families import CANDIDATE, CHANNELS, SIDE, few


def quantized(
    graph: GraphBuilder, result: str, path: Path, shape: tuple[int, ...], rank: int = 4, num_fp32: int = 0
) -> Path:
    """The graph in int8, calibrated on random numbers; its first ``num_fp32`` layers but one stay in float32."""
    images = np.random.default_rng(0).standard_normal((4 * shape[0], *shape[1:])).astype("float32")
    graph.save(path, result, rank=rank)
    kept = weighted_layers(path)[1 : 1 + num_fp32]
    quantize_onnx(path, path, images, reduce_range=True, keep_fp32=kept)
    return path


def assert_agree(path: Path, choose: int, *, num_threads: int = 1, processor: Mapping[str, object] = HOST) -> set[str]:
    found = assert_candidates_agree(
        path, choose, num_threads=num_threads, tolerance=0.03, mean_tolerance=5e-4, processor=processor
    )
    return set(found.values())


CONVOLUTIONS = {
    "batch": st.sampled_from([1, 1, 3]),
    "inputs": CHANNELS,
    "outputs": CHANNELS,
    "height": SIDE,
    "width": SIDE,
    "kernel": st.sampled_from([1, 1, 3, 5]),
    "stride": st.sampled_from([1, 2]),
    "activation": st.sampled_from(["relu", "hardswish", "relu6", "none"]),
    "choose": CANDIDATE,
}


def convolutions(
    folder: Path, activation: str, choose: int, processor: Mapping[str, object] = HOST, **drawn: int
) -> None:
    """A convolution, an activation, and a second convolution: quantised in between."""
    shape = (drawn["batch"], drawn["inputs"], drawn["height"], drawn["width"])
    graph, outputs = GraphBuilder(shape), drawn["outputs"]
    x = graph.conv("images", drawn["inputs"], outputs, drawn["kernel"], drawn["stride"])
    x = x if activation == "none" else graph.activation(x, activation)
    path = quantized(graph, graph.conv(x, outputs, 8, 1), folder / "int8.onnx", shape)
    assert "packed" in assert_agree(path, choose, processor=processor)


@few(5)
@given(**CONVOLUTIONS)
@example(batch=1, inputs=3, outputs=24, height=9, width=15, kernel=3, stride=2, activation="hardswish", choose=0)
def test_convolutions(tmp_path: Path, **drawn: int) -> None:
    convolutions(tmp_path, **drawn)


@pytest.mark.slow
@few(60)
@given(**CONVOLUTIONS)
def test_convolutions_of_many_shapes(tmp_path: Path, **drawn: int) -> None:
    convolutions(tmp_path, **drawn)


BLOCKS = {
    "channels": st.sampled_from([8, 12, 16, 24]),
    "expansion": st.sampled_from([1, 3, 4]),
    "kernel": st.sampled_from([3, 5, 7]),
    "side": st.integers(3, 14),
    "choose": CANDIDATE,
}


def block(
    folder: Path,
    channels: int,
    expansion: int,
    kernel: int,
    side: int,
    choose: int,
    processor: Mapping[str, object] = HOST,
) -> None:
    """An inverted bottleneck with its sum: dense, depthwise and dense convolutions, and what they are added to."""
    shape, middle = (1, channels, side, side), channels * expansion
    graph = GraphBuilder(shape)
    x = graph.activation(graph.conv("images", channels, middle, 1), "relu")
    x = graph.activation(graph.conv(x, middle, middle, kernel, groups=middle), "relu")
    x = graph.node("Add", "images", graph.conv(x, middle, channels, 1))
    path = quantized(graph, graph.conv(x, channels, 8, 1), folder / "block.onnx", shape)
    assert {"packed", "windowed"} <= assert_agree(path, choose, processor=processor)


@few(4)
@given(**BLOCKS)
def test_blocks(tmp_path: Path, **drawn: int) -> None:
    block(tmp_path, **drawn)


@pytest.mark.slow
@few(25)
@given(**BLOCKS)
def test_many_blocks(tmp_path: Path, **drawn: int) -> None:
    block(tmp_path, **drawn)


@pytest.mark.parametrize("outputs", [8, 10, 37])
def test_products(tmp_path: Path, outputs: int) -> None:
    """Of matrices with an odd number of inputs, from either side of the head's operators."""
    shape = (2, 13, 6, 6)
    graph = GraphBuilder(shape)
    path = quantized(graph, graph.head("images", 13, outputs), tmp_path / "head.onnx", shape, rank=2)
    assert "packed" in assert_agree(path, choose=1)


def test_groups_pools_and_joints(tmp_path: Path) -> None:
    """What has no products of pairs: grouped convolutions, poolings, joined branches; with two threads."""
    shape = (1, 16, 12, 12)
    graph = GraphBuilder(shape)
    grouped = graph.conv("images", 16, 32, 3, groups=4)
    pooled = graph.node("MaxPool", "images", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    joint = graph.node("Concat", grouped, pooled, axis=1)
    path = quantized(graph, graph.conv(joint, 48, 24, 3), tmp_path / "joint.onnx", shape)
    assert "packed" in assert_agree(path, choose=0, num_threads=2)


def test_layers_that_stay_in_float32(tmp_path: Path) -> None:
    """Mixed precision: what keeps ONNX Runtime from quantising such a layer must not keep TVM from lowering it."""
    shape = (1, 16, 9, 9)
    graph = GraphBuilder(shape)
    x = graph.activation(graph.conv("images", 16, 24, 3), "relu")
    x = graph.activation(graph.conv(x, 24, 24, 3, groups=24), "relu")
    path = quantized(graph, graph.conv(x, 24, 8, 1), tmp_path / "mixed.onnx", shape, num_fp32=1)
    assert any(node.op_type == "Max" for node in onnx.load(path).graph.node)
    assert "packed" in assert_agree(path, choose=0)


def test_networks_calibrated_differently_share_records(tmp_path: Path) -> None:
    """Scales and zero points are numbers within functions, and no part of the keys that records are found by."""
    shape, keys = (1, 8, 6, 6), []
    for factor in (1.0, 3.0):
        graph = GraphBuilder(shape)
        x = graph.node("Mul", "images", graph.constant(np.float32(factor)))
        x = graph.conv(graph.activation(graph.conv(x, 8, 16, 3), "hardswish"), 16, 8, 1)
        for kernel in (3, 5):  # float32 in and out, quantised in between
            x = graph.conv(x, 8, 8, kernel, groups=8)
        path = quantized(graph, graph.node("Add", x, "images"), tmp_path / f"{factor}.onnx", shape)
        found = functions_of(functions(path, resolve_target(HOST, 1)))
        keys.append({function_key(function) for name, function in found.items() if "conv" in name})
    assert keys[0] == keys[1] and len(keys[0]) == 4


def test_nothing_but_integers_lies_between_quantised_layers(tmp_path: Path) -> None:
    """The maps of a chain of convolutions are int16; a bias and both scales are in one multiply-add.

    (They are bytes where the processor multiplies those: ``test_byte_maps``.)
    """
    shape, target = (1, 8, 6, 6), tvm.target.Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "haswell"})
    graph = GraphBuilder(shape)
    x = graph.activation(graph.conv("images", 8, 16, 1), "relu")
    path = quantized(graph, graph.conv(x, 16, 8, 1), tmp_path / "chain.onnx", shape)
    found = functions_of(functions(path, target))
    between = [function for name, function in found.items() if "conv" in name and name.count("cast") == 1]
    assert len(between) == 1, list(found)
    dtypes = [str(parameter.dtype) for parameter in between[0].params]
    assert dtypes == ["int16", "int16", "float32", "float32", "int16"]
