"""On a CUDA device: every runtime of the target ``gpu`` that is installed. Skipped without one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hwautoml import pipeline
from hwautoml.compilers import load_backend
from hwautoml.core.target import Target
from hwautoml.devices.machine import cuda_device
from hwautoml.exporters import Deployable, export_onnx, export_program, half_deployable
from hwautoml.exporters.half_precision import TOLERANCE
from hwautoml.spaces.mobile import MobileSpace
from hwautoml.tasks.classification import Classification

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(cuda_device() is None, reason="NVIDIA's driver finds no CUDA device here"),
]
ONNX = ("tvm", "onnxruntime-cuda", "onnxruntime-tensorrt")
TORCH = ("torch", "torch-inductor")


def require_usable(runtime: str) -> None:
    reason = load_backend(runtime).unavailable_reason()
    if runtime in TORCH:
        import torch

        reason = reason or (None if torch.cuda.is_available() else "torch is built without CUDA")
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def onnx_path(space: MobileSpace, tmp_path: Path) -> Path:
    architecture = space.sample(np.random.default_rng(0))
    path = tmp_path / "net.onnx"
    export_onnx(
        space.module(architecture),
        path,
        resolution=space.resolution(architecture),
        channels=space.channels,
        mean=[0.5],
        std=[0.25],
        task=Classification(tuple(str(number) for number in range(10))),
        architecture=architecture,
    )
    return path


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("runtime", ONNX)
def test_onnx_files_compute_the_same(runtime: str, precision: str, onnx_path: Path, tmp_path: Path) -> None:
    require_usable(runtime)
    result = pipeline.compile(
        onnx_path, target="gpu", runtime=runtime, precision=precision, out=tmp_path / "out", profiles_dir=tmp_path
    )
    assert result["parity"]["max_relative"] <= result["parity"]["tolerance"]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("runtime", TORCH)
def test_programs_compute_the_same(runtime: str, precision: str, space: MobileSpace, tmp_path: Path) -> None:
    require_usable(runtime)
    architecture = space.sample(np.random.default_rng(0))
    side = space.resolution(architecture)
    module = Deployable(space.module(architecture), [0.5], [0.25]).eval()
    module = module if precision == "fp32" else half_deployable(module, precision)
    program = export_program(module, tmp_path / "net.pt2", (1, side, side, 1), dtype="uint8").path
    result = pipeline.compile(program, target="gpu", runtime=runtime, out=tmp_path / "out", profiles_dir=tmp_path)
    assert result["parity"]["max_relative"] <= TOLERANCE.get(precision, 1e-4)


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("runtime", ONNX)
def test_networks_are_timed_on_the_gpu(runtime: str, batch: int, onnx_path: Path, tmp_path: Path) -> None:
    require_usable(runtime)
    (row,) = pipeline.bench(
        [onnx_path], target="gpu", runtime=runtime, batch=batch, budget_sec=5.0, profiles_dir=tmp_path
    )["rows"]
    conditions = row["conditions"]
    assert (conditions["device"], conditions["gpu"], conditions["launched_singly"]) == ("cuda", cuda_device(), None)
    assert row["median_ms"] > 0


@pytest.mark.parametrize(
    ("runtime", "precision"), [("torch", "fp16"), ("torch", "bf16"), ("onnxruntime-cuda", "fp16"), ("tvm", "fp16")]
)
def test_a_few_networks_make_a_table(runtime: str, precision: str, gpu: Target, tmp_path: Path) -> None:
    require_usable(runtime)
    result = pipeline.profile(
        gpu.name,
        image_size=8,
        channels=1,
        runtime=runtime,
        precision=precision,
        measurements=3,
        budget_sec=60.0,
        profiles_dir=tmp_path,
    )
    assert precision in result.path.name


def test_what_is_captured_as_a_graph_is_replayed() -> None:
    """A replay computes anew from the captured input, and gives what a call gives."""
    require_usable("torch")
    import torch

    from hwautoml.compilers._torch_model import captured

    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()).cuda().eval()
    x, results = torch.randn(1, 3, 8, 8, device="cuda"), []
    run = captured(lambda: results.append(module(x)))
    x.normal_()
    run()
    assert run.launched_singly is None
    with torch.inference_mode():
        torch.testing.assert_close(results[-1], module(x))
