"""Compiling models that are not ours: given inputs, dynamic batch, and files that mean harm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hwautoml.errors import CompileError, InvalidValueError, UnsupportedOperatorError
from hwautoml.exporters import quantize_onnx
from hwautoml.pipeline import compile
from tests.compilers.graphs import GraphBuilder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    graph = GraphBuilder(("batch", 3, 8, 8))
    return graph.save(tmp_path / "model.onnx", graph.activation(graph.conv("images", 3, 8, 3), "relu"), rank=4)


def test_given_inputs_are_checked_too(model: Path, tmp_path: Path) -> None:
    inputs = tmp_path / "inputs.npz"
    np.savez(inputs, images=np.random.default_rng(0).standard_normal((5, 3, 8, 8)).astype("float32"))
    result = compile(model, out=tmp_path / "built", inputs=inputs, profiles_dir=tmp_path / "profiles")
    assert Path(result["path"]).parent == tmp_path / "built" and not result["slow"]
    parity = result["parity"]
    assert parity["num_inputs"] == 9 and parity["max_relative_given"] <= parity["tolerance"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (None, "does not exist"),
        ({"a": np.zeros(3), "b": np.zeros(3)}, "has no array 'images'"),
        ({"images": np.zeros((2, 3, 9, 8), "float32")}, "the model takes float32"),
        ({"images": np.zeros((2, 3, 8, 8))}, "float64"),
        ({"images": np.zeros((0, 3, 8, 8), "float32")}, "the model takes"),
    ],
)
def test_inputs_that_do_not_fit_are_named(
    model: Path, tmp_path: Path, arrays: dict[str, np.ndarray] | None, message: str
) -> None:
    if arrays is not None:
        np.savez(tmp_path / "inputs.npz", **arrays)
    with pytest.raises(InvalidValueError, match=message):
        compile(model, inputs=tmp_path / "inputs.npz", profiles_dir=tmp_path)


def damaged(folder: Path, how: str) -> Path:
    graph = GraphBuilder((1, 3, 8, 8))
    path = graph.save(folder / "model.onnx", graph.conv("images", 3, 8, 3), rank=4)
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
        return path
    model = onnx.load(path)
    weights = model.graph.initializer[0]
    if how == "external":
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        weights.external_data.add(key="location", value="../../../../etc/passwd")
    else:
        weights.dims[0] = 1 << 40
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("how", ["truncated", "external", "huge"])
def test_a_damaged_or_hostile_file_is_one_clear_error(tmp_path: Path, how: str) -> None:
    path = damaged(tmp_path, how)
    with pytest.raises(CompileError, match=r"model\.onnx"):
        compile(path, out=tmp_path / "built", profiles_dir=tmp_path / "profiles")
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "profiles") == ["model.onnx"]


def test_an_operator_that_tvm_lacks_is_named_with_the_way_out(tmp_path: Path) -> None:
    node = helper.make_node("Det", ["x"], ["y"])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    graph = helper.make_graph([node], "det", [x], [y])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "det.onnx")
    with pytest.raises(UnsupportedOperatorError, match="Det") as caught:
        compile(tmp_path / "det.onnx", out=tmp_path / "built", profiles_dir=tmp_path)
    assert "onnxruntime" in (caught.value.fix or "") and not (tmp_path / "built").exists()


def test_a_quantised_file_is_compared_with_what_it_says(tmp_path: Path) -> None:
    """Not with ONNX Runtime's int8 kernels, which give other results where eight-bit weights overflow their sums."""
    graph = GraphBuilder((1, 32, 8, 8))
    x = graph.conv(graph.activation(graph.conv("images", 32, 32, 3), "relu"), 32, 8, 1)
    source = graph.save(tmp_path / "int8.onnx", x, rank=4)
    images = np.random.default_rng(0).standard_normal((8, 32, 8, 8)).astype("float32")
    quantize_onnx(source, source, images, reduce_range=False)
    result = compile(source, out=tmp_path / "out", profiles_dir=tmp_path)
    assert result["fallbacks"] == [] and result["parity"]["tolerance"] == 0.05
    assert 0 <= result["parity"]["max_relative"] < 0.02
