from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from hwautoml.errors import CompileError, InvalidValueError
from hwautoml.exporters import export_probe
from hwautoml.exporters.batching import with_batch
from hwautoml.exporters.reference import export_reference


def run(path: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def test_a_batch_gives_what_single_images_give(exported_path: Path, tmp_path: Path) -> None:
    four = with_batch(exported_path, tmp_path / "four.onnx", 4)
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    expected = np.concatenate([run(exported_path, image[None]) for image in images])
    np.testing.assert_allclose(run(four, images), expected, atol=1e-6)
    assert with_batch(four, tmp_path / "x.onnx", 4) == four, "nothing to do, nothing written"
    back = with_batch(four, tmp_path / "back.onnx", 1)
    np.testing.assert_allclose(run(back, images[:1]), expected[:1], atol=1e-6)


def write_conv(path: Path, *shape: int | str) -> Path:
    weights = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("GlobalAveragePool", ["c"], ["y"])]
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, (shape[0], 4, 1, 1))
    graph = helper.make_graph(nodes, "conv", [source], [result], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_an_open_batch_becomes_a_fixed_one(tmp_path: Path) -> None:
    fixed = with_batch(write_conv(tmp_path / "open.onnx", "n", 3, 8, 8), tmp_path / "fixed.onnx", 3)
    assert onnx.load(fixed).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3
    assert run(fixed, np.zeros((3, 3, 8, 8), np.float32)).shape == (3, 4, 1, 1)


class PairsOnly(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.ones(2, 3)


def test_what_cannot_be_changed_is_said(tmp_path: Path) -> None:
    path = export_probe(PairsOnly(), tmp_path / "pairs.onnx", (2, 3)).path
    with pytest.raises(CompileError, match=r"pairs\.onnx computes for a batch of 2 only"):
        with_batch(path, tmp_path / "out.onnx", 5)
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(CompileError, match=r"bad\.onnx is not a readable ONNX model"):
        with_batch(tmp_path / "bad.onnx", tmp_path / "out.onnx", 5)
    with pytest.raises(InvalidValueError, match="batch must be at least 1, got 0"):
        with_batch(path, tmp_path / "out.onnx", 0)
    assert not (tmp_path / "out.onnx").exists()


def test_other_open_extents_are_refused_with_the_command_that_fixes_them(tmp_path: Path) -> None:
    path = write_conv(tmp_path / "open.onnx", 2, 3, "height", 8)
    with pytest.raises(CompileError, match=r"leaves extent 2 \(height\) open") as caught:
        with_batch(path, tmp_path / "out.onnx", 2)
    assert "--dim_param height --dim_value SIZE" in (caught.value.fix or "")


def test_the_reference_is_always_the_same(tmp_path: Path) -> None:
    first, second = export_reference(tmp_path / "a.onnx"), export_reference(tmp_path / "b.onnx")
    assert first.read_bytes() == second.read_bytes()
    assert np.isfinite(run(first, np.ones((1, 3, 32, 32), np.float32))).all()
