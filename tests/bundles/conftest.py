"""A tiny model (no training needed), bundled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwautoml.tasks.classification import Classification

CLASSES = ["bird", "cat", "déjà vu"]
RESOLUTION = 8


def _model(channels: int, num_classes: int = 3) -> onnx.ModelProto:
    """uint8 (1, 8, 8, C) to probabilities: a linear classifier with random weights."""
    size = RESOLUTION**2 * channels
    weights = np.random.default_rng(0).normal(0, 0.02, (size, num_classes)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["float", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [1, RESOLUTION, RESOLUTION, channels])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, num_classes])],
        [numpy_helper.from_array(np.array([1, size]), "shape"), numpy_helper.from_array(weights, "weights")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture
def onnx_path(tmp_path: Path) -> Path:
    onnx.save(_model(3), tmp_path / "tiny.onnx")
    return tmp_path / "tiny.onnx"


@pytest.fixture
def grey_onnx_path(tmp_path: Path) -> Path:
    onnx.save(_model(1), tmp_path / "grey.onnx")
    return tmp_path / "grey.onnx"


@pytest.fixture
def infer() -> Callable[[Path, np.ndarray], np.ndarray]:
    """``infer(onnx_path, uint8 (H, W, C))`` to probabilities (3,)."""
    return lambda path, image: onnxruntime.InferenceSession(str(path)).run(None, {"images": image[None]})[0][0]


@pytest.fixture
def bundle_arguments(onnx_path: Path) -> dict[str, Any]:
    return {
        "onnx_path": onnx_path,
        "task": Classification(tuple(CLASSES)),
        "resolution": RESOLUTION,
        "channels": 3,
        "accuracy": {"test_top1": 0.912},
        "latency": {"predicted_ms": 0.5, "median_ms": 0.52, "interval_ms": [0.51, 0.53]},
        "conditions": {"machine": "test bench", "num_threads": 1},
        "architecture": {"id": "abc"},
        "parity": {"max_abs": 1e-7, "top1_agreement": 1.0},
    }
