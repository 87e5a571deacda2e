from __future__ import annotations

import collections
import logging
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from hwautoml.errors import CompileError, InvalidValueError
from hwautoml.exporters import Deployable, export_onnx, export_probe, quantize_onnx
from hwautoml.exporters.quantization import (
    layer_sensitivity,
    quantize_layer_probe,
    quantize_network_probe,
    weighted_layers,
)
from hwautoml.tasks.classification import Classification
from tests.exporters.test_probe import optimised_operations

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def images(number: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (number, 16, 16, 3), np.uint8)


def run(path: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def test_int8_computes_nearly_the_same_with_int8_kernels(
    exported_path: Path,
    network: nn.Module,
    tmp_path: Path,
    capfd: pytest.CaptureFixture,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        artifact = quantize_onnx(exported_path, tmp_path / "new" / "int8.onnx", images(50))
    assert capfd.readouterr() == ("", "") and not caplog.records
    assert artifact.size_bytes == artifact.path.stat().st_size
    unseen = images(20, seed=1)
    with torch.no_grad():
        expected = Deployable(network, MEAN, STD).eval()(torch.from_numpy(unseen)).numpy()
    found = np.concatenate([run(artifact.path, unseen[i : i + 1]) for i in range(20)])
    assert np.abs(found - expected).max() < 0.05
    operations = optimised_operations(artifact.path)
    assert operations["QLinearConv"] == 6 and operations["Conv"] == 0
    assert operations["QGemm"] == 1 and operations["Softmax"] == 1  # softmax stays in float32


def test_int8_keeps_input_output_and_description(exported_path: Path, tmp_path: Path) -> None:
    quantize_onnx(exported_path, tmp_path / "int8.onnx", images(8))
    before, after = onnx.load(exported_path), onnx.load(tmp_path / "int8.onnx")
    onnx.checker.check_model(after, full_check=True)
    assert after.graph.input == before.graph.input
    assert after.graph.output == before.graph.output
    facts = {p.key: p.value for p in before.metadata_props}
    assert {p.key: p.value for p in after.metadata_props} == facts | {"precision": "int8", "calibration_images": "8"}


def test_weights_are_int8_per_channel(exported_path: Path, tmp_path: Path) -> None:
    quantize_onnx(exported_path, tmp_path / "int8.onnx", images(8))
    graph = onnx.load(tmp_path / "int8.onnx").graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    weights = [t for t in graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4]
    assert len(weights) == 6
    for weight in weights:
        (reader,) = [node for node in graph.node if node.input[0] == weight.name]
        assert list(tensors[reader.input[1]].dims) == [weight.dims[0]]


def test_a_batch_that_does_not_divide_the_images(network: nn.Module, tmp_path: Path) -> None:
    path = export_probe(Deployable(network, MEAN, STD), tmp_path / "p.onnx", (4, 16, 16, 3), dtype="uint8").path
    quantize_onnx(path, tmp_path / "int8.onnx", images(6))
    assert run(tmp_path / "int8.onnx", images(4)).shape == (4, 5)


def test_what_cannot_be_quantised_is_said(exported_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    with pytest.raises(InvalidValueError, match=r"\(n, 16, 16, 3\), got \(2, 8, 8, 3\)"):
        quantize_onnx(exported_path, out, np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(InvalidValueError, match="float"):
        quantize_onnx(exported_path, out, np.zeros((2, 16, 16, 3), np.float32))
    with pytest.raises(CompileError, match="no layer with weights"):
        quantize_onnx(export_probe(nn.ReLU(), tmp_path / "relu.onnx", (1, 4, 2, 2)).path, out, np.zeros((1, 4, 2, 2)))
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(CompileError, match=r"bad\.onnx"):
        quantize_onnx(tmp_path / "bad.onnx", out, images(1))
    assert not out.exists()


class Block(nn.Module):
    """Shortcut, depthwise convolution, a mean over the map, a gate: what the spaces' blocks have."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.project = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 1)
        self.depthwise, self.gate = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.depthwise(torch.relu(self.expand(x))))
        return x + self.project(y * nn.functional.hardsigmoid(self.gate(y.mean((2, 3), keepdim=True))))


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.mean((2, 3)))


def test_a_layer_alone_converts_nothing_at_its_ends(tmp_path: Path) -> None:
    """Neither number formats nor layouts: only what a layer converts inside remains."""
    path = export_probe(Block(), tmp_path / "block.onnx", (2, 8, 6, 6)).path
    quantize_layer_probe(path)
    onnx.checker.check_model(onnx.load(path))
    operations = optimised_operations(path)
    # The gate's HardSigmoid has no int8 kernel.
    assert operations == collections.Counter(
        QLinearConv=4,
        QLinearGlobalAveragePool=1,
        QLinearMul=1,
        QLinearAdd=1,
        DequantizeLinear=1,
        HardSigmoid=1,
        QuantizeLinear=1,
    )
    result = run(path, np.random.default_rng(0).integers(0, 256, (2, 6, 6, 8), np.uint8))
    assert (result.shape, result.dtype) == ((2, 6, 6, 8), np.uint8)


def test_a_classifier_alone_takes_and_gives_integers(tmp_path: Path) -> None:
    path = export_probe(Classifier(), tmp_path / "head.onnx", (1, 8, 6, 6)).path
    quantize_layer_probe(path)
    assert optimised_operations(path)["QGemm"] == 1
    result = run(path, np.full((1, 6, 6, 8), 130, np.uint8))
    assert (result.shape, result.dtype) == ((1, 3), np.uint8)


def test_a_layer_with_nothing_to_quantise_stays(tmp_path: Path) -> None:
    path = export_probe(nn.ReLU(), tmp_path / "relu.onnx", (1, 8, 1, 1)).path
    quantize_layer_probe(path)
    assert run(path, np.full((1, 8, 1, 1), -1, np.float32)).dtype == np.float32


def test_a_network_probe_is_the_form_that_ships(network: nn.Module, tmp_path: Path) -> None:
    path = export_probe(Deployable(network, MEAN, STD), tmp_path / "p.onnx", (1, 16, 16, 3), dtype="uint8").path
    quantize_network_probe(path)
    assert optimised_operations(path)["QLinearConv"] == 6
    assert run(path, images(1)).sum() == pytest.approx(1, abs=1e-3)


def test_layers_can_stay_in_float32(exported_path: Path, tmp_path: Path) -> None:
    layers = weighted_layers(exported_path)
    assert len(layers) == 7
    quantize_onnx(exported_path, tmp_path / "mixed.onnx", images(8), keep_fp32=layers[:2])
    operations = optimised_operations(tmp_path / "mixed.onnx")
    assert operations["QLinearConv"] == 4 and operations["QGemm"] == 1
    assert operations["Conv"] + operations["FusedConv"] == 2
    facts = {p.key: p.value for p in onnx.load(tmp_path / "mixed.onnx").metadata_props}
    assert facts["precision"] == "int8 and fp32" and facts["fp32_layers"].split() == sorted(layers[:2])


def test_the_layer_that_quantisation_hurts_is_the_most_sensitive(tmp_path: Path) -> None:
    """One weight of a channel that is a thousand times the others leaves those nothing of 8 bits."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ).eval()
    with torch.no_grad():
        middle = network[2].weight
        middle[:, 0, 0, 0] = 300 * middle.abs().max()
        network[0].weight[0] = 0.0  # that input channel is nearly silent
        network[0].bias[0] = 1e-3
    task = Classification(tuple("abcd"))
    path = export_onnx(
        network,
        tmp_path / "n.onnx",
        resolution=16,
        channels=3,
        mean=MEAN,
        std=STD,
        task=task,
        architecture={"x": 1},
    ).path
    done: list[tuple[int, int]] = []
    found = layer_sensitivity(path, images(16), divergence=task.divergence, on_layer=lambda i, n: done.append((i, n)))
    assert next(iter(found)) == weighted_layers(path)[1] and done[-1] == (4, 4)
    assert list(found.values()) == sorted(found.values(), reverse=True) and min(found.values()) >= 0
