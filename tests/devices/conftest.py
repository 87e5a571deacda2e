"""Real ONNX models, small enough to build and time in milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwautoml.devices.local import LocalDevice
from tests.compilers.graphs import GraphBuilder
from tests.compilers.shared import HOST, compiler

Build = Callable[[str, int], Path]


@pytest.fixture
def conv(tmp_path: Path) -> Build:
    """``conv(name, channels)`` writes a 3x3 convolution on (2, channels, 16, 16)."""

    def build(name: str, channels: int) -> Path:
        weights = np.random.default_rng(0).standard_normal((channels, channels, 3, 3)).astype(np.float32)
        node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
        shape = [2, channels, 16, 16]
        return write(tmp_path / f"{name}.onnx", [node], shape, shape, [numpy_helper.from_array(weights, "w")])

    return build


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """Loads like any model and never ends: a loop of a billion steps."""
    i, go, x, go_out, y = "i", "go", "x_in", "go_out", "x_out"
    body = helper.make_graph(
        [helper.make_node("Identity", [go], [go_out]), helper.make_node("Sin", [x], [y])],
        "body",
        [
            helper.make_tensor_value_info(i, TensorProto.INT64, []),
            helper.make_tensor_value_info(go, TensorProto.BOOL, []),
            helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, 4]),
        ],
        [
            helper.make_tensor_value_info(go_out, TensorProto.BOOL, []),
            helper.make_tensor_value_info(y, TensorProto.FLOAT, [1, 4]),
        ],
    )
    constants = [numpy_helper.from_array(np.array(10**9), "n"), numpy_helper.from_array(np.array(True), "yes")]
    node = helper.make_node("Loop", ["n", "yes", "x"], ["y"], body=body)
    return write(tmp_path / "endless.onnx", [node], [1, 4], [1, 4], constants)


def write(path: Path, nodes: list[onnx.NodeProto], shape: list[int], out: list[int], constants: list) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.fixture
def device() -> Iterator[LocalDevice]:
    with LocalDevice("onnxruntime") as opened:
        yield opened


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """``small.onnx`` and ``large.onnx`` with what they were compiled to."""
    folder, found = tmp_path_factory.mktemp("libraries"), {}
    for name, channels in (("small", 8), ("large", 64)):
        graph = GraphBuilder((2, channels, 16, 16))
        found[f"{name}.onnx"] = graph.save(
            folder / f"{name}.onnx", graph.conv(graph.input.name, channels, channels, 3), rank=4
        )
        compiled = compiler().compile(found[f"{name}.onnx"], folder / name, HOST)
        found[name] = compiled.path
    return found
