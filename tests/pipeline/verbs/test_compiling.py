"""Compiling models that are not ours: given inputs, dynamic batch, and files that mean harm."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from benchmarks.baselines import MobileNetV2ImageNet, ResNet18
from hwautoml.core.resources import package_folder
from hwautoml.devices.machine import cuda_device
from hwautoml.errors import CompileError, InvalidValueError, ParityError, UnsupportedOperatorError
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


@pytest.mark.parametrize(
    ("target", "precision", "message"),
    [
        ("cpu", "fp16", "target 'cpu' computes in fp32, int8, not in 'fp16'"),
        ("gpu", "fp8", "target 'gpu' computes in fp32, fp16, bf16, int8, not in 'fp8'"),
        ("gpu", "bf16", "fix: --precision fp16"),
        ("rpi5", "fp16", "fp16 is for GPUs, and rpi5 is none"),
        ("gpu", "int8", "hwautoml run --precision int8"),
    ],
)
def test_precisions_that_cannot_be_had_are_refused(
    target: str, precision: str, message: str, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidValueError, match=message):
        compile(model, target=target, precision=precision, profiles_dir=tmp_path / "profiles")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx"]


def test_what_fp16_cannot_hold_is_seen_before_anything_is_compiled(tmp_path: Path) -> None:
    graph = GraphBuilder((1, 4))
    large = graph.node("Mul", "images", graph.constant(np.full((1, 4), 1e6, "float32")))
    path = graph.save(tmp_path / "large.onnx", large)
    with pytest.raises(ParityError, match=r"compiled for fp16, .*large\.onnx differs .*\n.*leave --precision out"):
        compile(path, target="gpu", precision="fp16", out=tmp_path / "out", profiles_dir=tmp_path / "profiles")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(cuda_device() is not None, reason="there is a CUDA device")
def test_compiled_in_fp16_for_a_gpu_that_is_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without nvcc, so that the library holds its source: kernels in half precision, whose products are float32's."""
    folders = os.environ["PATH"].split(os.pathsep)
    monkeypatch.setenv("PATH", os.pathsep.join(f for f in folders if not (Path(f) / "nvcc").exists()))
    graph = GraphBuilder((1, 8, 8, 3), TensorProto.UINT8)
    path = graph.save(tmp_path / "net.onnx", graph.head(graph.conv(graph.normalised(3), 3, 8, 3), 8, 4))
    result = compile(path, target="gpu", precision="fp16", out=tmp_path / "out", profiles_dir=tmp_path)
    assert 0 < result["half_parity"]["max_relative"] < result["half_parity"]["tolerance"] == 10 * 2.0**-10
    assert "not checked: gpu is an NVIDIA GPU, and this machine has none" in result["parity"]
    content = Path(result["path"]).read_bytes()
    assert b"half* __restrict__" in content and b"cuda_graph.run_or_capture" in content


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_torch_program_is_compared_with_itself(precision: str, tmp_path: Path) -> None:
    import torch

    from hwautoml.exporters import Deployable, export_program, half_deployable

    module = Deployable(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3)), [0.5] * 3, [0.25] * 3).eval()
    module = module if precision == "fp32" else half_deployable(module, precision)
    program = export_program(module, tmp_path / "net.pt2", (1, 4, 4, 3), dtype="uint8").path
    text = (package_folder("targets") / "cpu.toml").read_text(encoding="utf-8")
    text = text.replace('"onnxruntime", "tvm"', '"torch"').replace('"int8"', '"bf16"')
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    options = {"target": "mine", "runtime": "torch", "targets_dir": tmp_path, "profiles_dir": tmp_path / "profiles"}
    result = compile(program, out=tmp_path / "out", **options)
    assert result["parity"]["max_relative"] == 0 and Path(result["path"]).suffix == ".pt2"
    assert result["parity"]["tolerance"] == (1e-4 if precision == "fp32" else 10 * 2.0**-7)
    with pytest.raises(InvalidValueError, match=r"net\.pt2 has the precision it was exported in"):
        compile(program, precision="bf16", **options)


class Transformer(nn.Module):
    """Two layers that attend to sixteen patches, and a head."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True) for _ in range(2)]
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(x).mean(1))


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, "n"])
@pytest.mark.parametrize(
    ("make", "shape"), [(ResNet18, (3, 64, 64)), (MobileNetV2ImageNet, (3, 64, 64)), (Transformer, (16, 32))]
)
def test_networks_that_did_not_come_from_us(
    tmp_path: Path, make: Callable[[], nn.Module], shape: tuple[int, ...], batch: int | str
) -> None:
    """As they are exported from torch, with a batch of one and one that is known only at run time."""
    torch.manual_seed(0)
    path, x = tmp_path / "network.onnx", torch.randn(1, *shape)
    dynamic = {"images": {0: "n"}, "result": {0: "n"}} if batch == "n" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of its own older exporter
        torch.onnx.export(
            make().eval(),
            (x,),
            path,
            input_names=["images"],
            output_names=["result"],
            dynamic_axes=dynamic,
            dynamo=False,
        )
    result = compile(path, out=tmp_path / "built", profiles_dir=tmp_path / "profiles")
    assert result["functions"] > 5 and not result["fallbacks"] and not result["slow"]
    assert result["parity"]["max_relative"] <= 1e-4
