"""Forms in sixteen bits: what stays in float32, what is refused, and how near they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from torch import nn

from hwautoml.errors import CompileError, InvalidValueError
from hwautoml.exporters import Deployable, export_program, half_deployable, half_module, half_onnx, quantize_onnx
from hwautoml.exporters.half_precision import EPSILON, KEPT_IN_FLOAT32, TOLERANCE, is_half_onnx
from tests.compilers.graphs import GraphBuilder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A classifier of uint8 images: convolutions, squeeze-and-excitation, residual sum, softmax."""
    graph = GraphBuilder((2, 16, 16, 3), TensorProto.UINT8)
    x = graph.activation(graph.conv(graph.normalised(3), 3, 16, 3), "hardswish")
    y = graph.squeeze_excite(graph.activation(graph.conv(x, 16, 16, 3, groups=16), "relu6"), 16, "hardsigmoid")
    return graph.save(tmp_path / "net.onnx", graph.head(graph.node("Add", x, y), 16, 5))


def outputs(path: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def relative(expected: np.ndarray, got: np.ndarray) -> float:
    return float(np.abs(expected - got.astype("float32")).max() / np.abs(expected).max())


def test_an_fp16_file_takes_and_gives_what_the_float32_file_does(source: Path, tmp_path: Path) -> None:
    half = half_onnx(source, tmp_path / "half" / "net.onnx").path
    graph = onnx.load(half).graph
    assert graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert {tensor.data_type for tensor in graph.initializer if tensor.dims} <= {TensorProto.FLOAT16, TensorProto.INT64}
    assert is_half_onnx(half) and not is_half_onnx(source)
    x = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    expected, got = outputs(source, x), outputs(half, x)
    assert got.dtype == np.float32 and 0 < relative(expected, got) < TOLERANCE["fp16"]


def test_softmax_stays_in_float32_and_nothing_is_cast_back_and_forth(source: Path, tmp_path: Path) -> None:
    graph = onnx.shape_inference.infer_shapes(onnx.load(half_onnx(source, tmp_path / "half.onnx").path)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    kept = [node for node in graph.node if node.op_type in KEPT_IN_FLOAT32]
    assert [types[node.output[0]] for node in kept] == [TensorProto.FLOAT]
    casts = {node.output[0]: node for node in graph.node if node.op_type == "Cast"}
    assert casts and not [node for node in casts.values() if node.input[0] in casts]


def test_between_two_layers_all_is_fp16(tmp_path: Path) -> None:
    graph = GraphBuilder((1, 8, 4, 4))
    path = graph.save(tmp_path / "layer.onnx", graph.activation(graph.conv("images", 8, 8, 3), "relu"), rank=4)
    x = np.random.default_rng(0).standard_normal((1, 8, 4, 4)).astype("float32")
    expected = outputs(path, x)
    half_onnx(path, path, keep_io=False)
    got = outputs(path, x.astype("float16"))
    assert got.dtype == np.float16 and relative(expected, got) < TOLERANCE["fp16"]
    assert not [node for node in onnx.load(path).graph.node if node.op_type == "Cast"]


def test_what_is_no_float32_model_is_refused(source: Path, tmp_path: Path) -> None:
    quantize_onnx(source, tmp_path / "int8.onnx", np.zeros((2, 16, 16, 3), np.uint8))
    with pytest.raises(InvalidValueError, match=r"int8\.onnx is quantised"):
        half_onnx(tmp_path / "int8.onnx", tmp_path / "half.onnx")
    (tmp_path / "broken.onnx").write_bytes(source.read_bytes()[:-50])
    with pytest.raises(CompileError, match=r"broken\.onnx"):
        half_onnx(tmp_path / "broken.onnx", tmp_path / "half.onnx")
    assert not (tmp_path / "half.onnx").exists()


class Network(nn.Module):
    """With a batch normalisation that no convolution takes in."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(3), nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.SiLU(), nn.Conv2d(32, 8, 1)
        )
        self.linear = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.body(x).mean((2, 3)))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_torch_network_computes_in_sixteen_bits_between_float32(precision: str, tmp_path: Path) -> None:
    """The program that is exported, in torch's own kernels on this processor."""
    from hwautoml.compilers import load_backend

    torch.manual_seed(0)
    module = Deployable(Network(), [0.5] * 3, [0.25] * 3).eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    half = half_deployable(module, precision)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items()), "it is a copy"
    norms = [m for m in half.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and all(m.running_var is not None and m.running_var.dtype == torch.float32 for m in norms)
    path = export_program(half, tmp_path / "half.pt2", (2, 8, 8, 3), dtype="uint8").path
    x = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    got = load_backend("torch").open_model(path)(x)
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    assert got.dtype == np.float32 and EPSILON[precision] / 100 < relative(expected, got) < TOLERANCE[precision]


def test_other_precisions_have_no_half() -> None:
    with pytest.raises(InvalidValueError, match="one of fp16, bf16, got 'fp32'"):
        half_module(nn.ReLU(), "fp32")
