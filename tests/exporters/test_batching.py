from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from hwautoml.errors import CompileError, InvalidValueError
from hwautoml.exporters import export_onnx, export_probe
from hwautoml.exporters.batching import with_batch
from hwautoml.exporters.reference import export_reference


def run(path: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def test_a_batch_gives_what_single_images_give(network: nn.Module, tmp_path: Path) -> None:
    one = export_onnx(
        network, tmp_path / "one.onnx", resolution=16, channels=3, mean=[0.5] * 3, std=[0.25] * 3,
        classes=list("abcde"), architecture={"small": True},
    ).path  # fmt: skip
    four = with_batch(one, tmp_path / "four.onnx", 4)
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    expected = np.concatenate([run(one, image[None]) for image in images])
    np.testing.assert_allclose(run(four, images), expected, atol=1e-6)
    assert with_batch(four, tmp_path / "x.onnx", 4) == four, "nothing to do, nothing written"
    back = with_batch(four, tmp_path / "back.onnx", 1)
    np.testing.assert_allclose(run(back, images[:1]), expected[:1], atol=1e-6)


def test_an_open_batch_becomes_a_fixed_one(tmp_path: Path) -> None:
    path = tmp_path / "open.onnx"
    torch.onnx.export(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2)).eval(), (torch.zeros(2, 3, 8, 8),), path,
        dynamo=True, external_data=False, dynamic_shapes=({0: torch.export.Dim("n")},), verbose=False,
    )  # fmt: skip
    fixed = with_batch(path, tmp_path / "fixed.onnx", 3)
    assert onnx.load(fixed).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3
    assert run(fixed, np.zeros((3, 3, 8, 8), np.float32)).shape == (3, 2)


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


def test_the_reference_is_always_the_same(tmp_path: Path) -> None:
    first, second = export_reference(tmp_path / "a.onnx"), export_reference(tmp_path / "b.onnx")
    assert first.read_bytes() == second.read_bytes()
    assert np.isfinite(run(first, np.ones((1, 3, 32, 32), np.float32))).all()
