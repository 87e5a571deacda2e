"""Probes that every runtime opens, and that compute what torch computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hwautoml.compilers import load_backend
from hwautoml.core.layer import Layer
from hwautoml.core.target import Target
from hwautoml.errors import InvalidValueError
from hwautoml.exporters.half_precision import is_half_onnx
from hwautoml.pipeline.tables.probes import deployable_probe, probe_builders
from hwautoml.spaces.mobile import MobileSpace
from tests.compilers.shared import compile_of

LAYER = Layer("mbconv_se", 16, 4, 4, 16, 3, 2)


def check_all_three(
    space: MobileSpace, cpu: Target, runtime: str, folder: Path, *, batch: int = 1, precision: str = "fp32"
) -> None:
    """A layer, a network and the overhead: opened, run, and with the shapes and types they should have."""
    builders = probe_builders(space, cpu, runtime, folder / "records.json", batch=batch, precision=precision)
    architecture = space.sample(np.random.default_rng(0))
    side = space.resolution(architecture)
    is_channels_last = precision == "int8" or runtime == "tvm"  # as between two layers of a network there
    assert builders.overhead is not None
    made = {
        (batch, 4, 4, 16) if is_channels_last else (batch, 16, 4, 4): builders.layer(LAYER, folder / "layer0"),
        (batch, side, side, space.channels): builders.network(architecture, folder / "network0"),
        (batch, 8, 1, 1): builders.overhead(folder / "overhead0"),
    }
    backend = load_backend(runtime)
    for shape, path in made.items():
        model = backend.open_model(path)
        assert model.input_shape == shape
        x = np.random.default_rng(0).integers(0, 100, shape).astype(model.input_dtype)
        assert model(x).shape[0] == batch
        model.bind(x)()
    assert backend.open_model(made[batch, side, side, space.channels]).input_dtype == "uint8"


@pytest.mark.parametrize(
    "runtime", ["onnxruntime", "tvm", "torch", pytest.param("torch-inductor", marks=pytest.mark.slow)]
)
def test_every_runtime_computes_what_torch_computes(
    runtime: str, space: MobileSpace, cpu: Target, tmp_path: Path
) -> None:
    import torch

    from hwautoml.exporters import Deployable, export_probe, export_program

    backend = load_backend(runtime)
    if backend.unavailable_reason() is not None:
        pytest.skip(str(backend.unavailable_reason()))
    torch.manual_seed(0)
    architecture = space.sample(np.random.default_rng(3))
    side = space.resolution(architecture)
    network = Deployable(space.module(architecture), [0.5], [0.25]).eval()
    export = export_program if backend.TRAITS.source_suffix == ".pt2" else export_probe
    source = export(network, tmp_path / f"net{backend.TRAITS.source_suffix}", (1, side, side, 1), dtype="uint8").path
    model = backend.open_model(compile_of(runtime)(source, tmp_path / "out", cpu).path)
    for seed in range(3):
        x = np.random.default_rng(seed).integers(0, 256, model.input_shape, np.uint8)
        with torch.no_grad():
            np.testing.assert_allclose(model(x), network(torch.from_numpy(x)).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("runtime", "batch", "precision"),
    [
        ("onnxruntime", 1, "fp32"),
        ("onnxruntime", 4, "fp32"),
        ("onnxruntime", 1, "int8"),
        ("onnxruntime", 4, "int8"),
        ("tvm", 1, "fp32"),
        ("tvm", 1, "int8"),
        ("torch", 4, "fp32"),
    ],
)
def test_probes(runtime: str, batch: int, precision: str, space: MobileSpace, cpu: Target, tmp_path: Path) -> None:
    check_all_three(space, cpu, runtime, tmp_path, batch=batch, precision=precision)


@pytest.mark.slow
@pytest.mark.parametrize(("runtime", "batch"), [("tvm", 4), ("torch", 1), ("torch-inductor", 1), ("torch-inductor", 4)])
def test_probes_that_take_their_time(runtime: str, batch: int, space: MobileSpace, cpu: Target, tmp_path: Path) -> None:
    reason = load_backend(runtime).unavailable_reason()
    if reason is not None:
        pytest.skip(reason)
    check_all_three(space, cpu, runtime, tmp_path, batch=batch)


def test_an_int8_layer_takes_and_gives_integers(space: MobileSpace, cpu: Target, tmp_path: Path) -> None:
    builders = probe_builders(space, cpu, "onnxruntime", tmp_path / "r.json", precision="int8")
    model = load_backend("onnxruntime").open_model(builders.layer(LAYER, tmp_path / "layer.onnx"))
    assert model.input_dtype == "uint8"
    assert model(np.full(model.input_shape, 130, np.uint8)).dtype == np.uint8


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_probes_in_sixteen_bits(precision: str, space: MobileSpace, cpu: Target, tmp_path: Path) -> None:
    """A layer takes and gives what lies between two layers; a network what it ships with."""
    builders = probe_builders(space, cpu, "torch", tmp_path / "r.json", precision=precision)
    assert builders.overhead is not None
    name = {"fp16": "float16", "bf16": "bfloat16"}[precision]
    layers = [builders.layer(LAYER, tmp_path / "layer"), builders.overhead(tmp_path / "overhead")]
    for path in layers:
        model = load_backend("torch").open_model(path)
        assert model.input_dtype == name
        x = np.random.default_rng(0).standard_normal(model.input_shape).astype(name)
        assert np.isfinite(model(x)).all()
        model.bind(x)()
    network = builders.network(space.sample(np.random.default_rng(0)), tmp_path / "network")
    model = load_backend("torch").open_model(network)
    images = np.random.default_rng(0).integers(0, 256, model.input_shape, np.uint8)
    result = model(images)
    assert result.dtype == np.float32 and result.sum() == pytest.approx(1, abs=1e-5)


def test_fp16_probes_of_onnx_runtime(space: MobileSpace, gpu: Target, tmp_path: Path) -> None:
    """As they are measured on a GPU, here on the processor: float16 between layers."""
    builders = probe_builders(space, gpu, "onnxruntime-cuda", tmp_path / "r.json", precision="fp16")
    model = load_backend("onnxruntime").open_model(builders.layer(LAYER, tmp_path / "layer.onnx"))
    assert (model.input_dtype, model.input_shape) == ("float16", (1, 16, 4, 4))
    assert model(np.ones(model.input_shape, np.float16)).dtype == np.float16
    network = load_backend("onnxruntime").open_model(builders.network(space.smallest(), tmp_path / "net.onnx"))
    assert network(np.zeros(network.input_shape, np.uint8)).dtype == np.float32


@pytest.mark.slow
def test_fp16_probes_are_compiled_for_a_gpu(space: MobileSpace, gpu: Target, tmp_path: Path) -> None:
    builders = probe_builders(space, gpu, "tvm", tmp_path / "r.json", precision="fp16")
    path = builders.layer(LAYER, tmp_path / "layer")
    assert path.suffix == ".so" and b"fused_" in path.read_bytes()


def test_precisions_are_checked(space: MobileSpace, cpu: Target, tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="'int4' cannot be measured on onnxruntime: fp32 works everywhere"):
        probe_builders(space, cpu, "onnxruntime", tmp_path, precision="int4")
    with pytest.raises(InvalidValueError, match="'int8' cannot be measured on torch.*int8 on onnxruntime"):
        probe_builders(space, cpu, "torch", tmp_path, precision="int8")
    for runtime, precision in (("tvm", "fp16"), ("onnxruntime", "fp16"), ("onnxruntime-cuda", "bf16")):
        message = f"'{precision}' cannot be measured on {runtime}:.* bf16 on torch and torch-inductor"
        with pytest.raises(InvalidValueError, match=message):
            probe_builders(space, cpu, runtime, tmp_path, precision=precision)


def test_networks_to_measure_by_hand_have_their_precision(space: MobileSpace, tmp_path: Path) -> None:
    path = deployable_probe(space, space.smallest(), tmp_path / "net.onnx", precision="fp16")
    assert is_half_onnx(path)
    with pytest.raises(InvalidValueError, match="ONNX files are not compiled in bf16"):
        deployable_probe(space, space.smallest(), tmp_path / "bf16.onnx", precision="bf16")
    assert not (tmp_path / "bf16.onnx").exists()


def test_a_network_probe_takes_pictures_in_batches(space: MobileSpace, tmp_path: Path) -> None:
    path = deployable_probe(space, space.smallest(), tmp_path / "net.onnx", batch=3)
    model = load_backend("onnxruntime").open_model(path)
    assert (model.input_shape[0], model.input_dtype) == (3, "uint8")
    result = model(np.zeros(model.input_shape, np.uint8))
    np.testing.assert_allclose(result.sum(axis=1), 1, atol=1e-5)
