"""The int8 form of a file depends on the device that it is for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from hwautoml.pipeline.runs.int8_accuracy import quantize_until_accurate
from hwautoml.tasks.classification import Classification
from tests.compilers.graphs import GraphBuilder


@pytest.mark.parametrize(
    ("conditions", "largest"),
    [
        ({"machine": "aarch64"}, 127),
        ({"machine": "x86_64", "int8_dot_product": True}, 127),
        ({"machine": "x86_64", "int8_dot_product": False}, 64),
    ],
)
def test_weights_keep_to_seven_bits_where_the_boards_sums_saturate(
    conditions: dict[str, object], largest: int, tmp_path: Path
) -> None:
    """Whatever this machine, which makes the file, can do."""
    graph = GraphBuilder((1, 3, 8, 8))
    source = graph.save(tmp_path / "net.onnx", graph.activation(graph.conv("images", 3, 8, 3), "relu"), rank=4)
    images = np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype("float32")
    task, path = Classification(("a", "b")), tmp_path / "int8.onnx"
    accuracy, kept = quantize_until_accurate(source, path, images, lambda _: 1.0, 0.9, task=task, conditions=conditions)
    assert (accuracy, kept) == (1.0, ())
    tensors = map(numpy_helper.to_array, onnx.load(path).graph.initializer)
    weights = [tensor for tensor in tensors if tensor.dtype == np.int8 and tensor.ndim == 4]
    assert weights and max(int(np.abs(tensor.astype(int)).max()) for tensor in weights) in (largest, largest - 1)
