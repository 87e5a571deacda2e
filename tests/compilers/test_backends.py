"""The contract that every backend keeps, with the real runtimes."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwautoml.compilers import (
    all_traits,
    backend_names,
    board_runtimes,
    load_backend,
    owner_of,
    reference_runtime,
    shipping_runtimes,
    traits_of,
)
from hwautoml.compilers.base import Traits
from hwautoml.core.target import PRECISIONS, Target
from hwautoml.devices.local import LocalDevice
from hwautoml.errors import CompileError, InvalidValueError, MissingDependencyError, UnknownNameError
from tests.compilers.graphs import GraphBuilder
from tests.compilers.plugins import BROKEN, THEIRS, install_runtimes
from tests.compilers.shared import CUDA, HOST, compile_of

BACKENDS = ("onnxruntime", "tvm")  # those that compile ONNX and can be run anywhere
GPU_BACKENDS = {"onnxruntime-cuda": "CUDAExecutionProvider", "onnxruntime-tensorrt": "TensorrtExecutionProvider"}


@pytest.fixture(scope="module")
def onnx_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small classifier of 8 x 8 uint8 images."""
    graph = GraphBuilder((1, 8, 8, 3), TensorProto.UINT8)
    x = graph.activation(graph.conv(graph.normalised(3), 3, 16, 3), "relu")
    return graph.save(tmp_path_factory.mktemp("onnx") / "net.onnx", graph.head(x, 16, 5))


def test_backends_are_the_files_of_the_folder() -> None:
    assert backend_names() == tuple(sorted([*BACKENDS, *GPU_BACKENDS, "torch", "torch-inductor"]))
    for name in backend_names():
        backend = load_backend(name)
        assert name == backend.TRAITS.name
        assert (".pt2" if name.startswith("torch") else ".onnx") == backend.TRAITS.source_suffix


@pytest.mark.parametrize("name", GPU_BACKENDS)
def test_a_missing_provider_is_named_and_never_replaced_by_the_cpu(name: str, onnx_path: Path, tmp_path: Path) -> None:
    backend, provider = load_backend(name), GPU_BACKENDS[name]
    reason = backend.unavailable_reason()
    if reason is None:
        pytest.skip(f"{provider} is installed here")
    assert provider in reason and "pip install onnxruntime-gpu" in reason
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # ONNX Runtime names it as well
        with pytest.raises(CompileError, match=f"could not start {provider}"):
            backend.compile(onnx_path, tmp_path, CUDA)
    assert not list(tmp_path.iterdir())


def test_listing_backends_imports_none_of_them() -> None:
    code = (
        "import sys; from hwautoml.compilers import backend_names; backend_names(); "
        "assert not {'tvm', 'onnxruntime', 'onnx', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["onnxruntim", "base", "_files", "graphs", "torch_inductor"])
def test_unknown_backend_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UnknownNameError, match=r"onnxruntime.*|tvm.*"):
        load_backend(name)


def test_what_the_rest_of_the_package_asks_runtimes() -> None:
    """Whose answers were tables elsewhere."""
    assert shipping_runtimes() == ("onnxruntime", "tvm")
    assert board_runtimes() == ("tvm", "onnxruntime")
    assert (reference_runtime(".onnx"), reference_runtime(".pt2")) == ("onnxruntime", "torch")
    assert (owner_of(".so"), owner_of(".txt")) == ("tvm", None)
    names = {name: traits.artifact_name("int8") for name, traits in all_traits().items() if traits.ships_as}
    assert names == {"onnxruntime": "model_int8.onnx", "tvm": "int8/model.so"}
    with pytest.raises(MissingDependencyError, match=r"no runtime here opens \.txt files"):
        reference_runtime(".txt")


@pytest.mark.parametrize(
    ("target", "runtime", "precisions"),
    [
        (HOST, "onnxruntime", "fp32 int8"),
        (HOST, "tvm", "fp32 int8"),
        (CUDA, "tvm", "fp32 fp16 int8"),
        (CUDA, "onnxruntime-cuda", "fp32 fp16 int8"),
        (HOST, "torch", "fp32 fp16 bf16"),
    ],
)
def test_precisions_depend_on_the_kind_of_device(target: Target, runtime: str, precisions: str) -> None:
    traits = traits_of(runtime)
    assert [precision for precision in PRECISIONS if traits.runs(precision, target)] == precisions.split()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"places": ("cpu", "tpu")}, "places must be among"),
        ({"opens_source_on": ("cuda",)}, "opens_source_on must be among"),
        ({"precisions": ("int4",)}, "precisions must be among"),
        ({"file_name": "model"}, "a file_name with a suffix"),
        ({"on_boards": "wifi"}, "on_boards must be None or one of"),
        ({"on_boards": "agent"}, r"files are known by \.bin"),
        ({"parity_tolerance": 0.0}, "parity_tolerance > 0"),
    ],
)
def test_traits_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    given = {"name": "mine", "source_suffix": ".onnx", "file_name": "model.bin", "packages": {}}
    assert Traits(**given).suffix == ".bin"
    with pytest.raises(InvalidValueError, match=f"traits of runtime 'mine': .*{message}"):
        Traits(**{**given, **changes})


def test_runtimes_of_other_packages_are_found_here_and_in_processes(
    onnx_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install_runtimes(tmp_path, monkeypatch, {"theirs": THEIRS, "broken": BROKEN, "nameless": "TRAITS = None"})
    assert backend_names()[-3:] == ("broken", "nameless", "theirs")
    assert "theirs" in shipping_runtimes() and "broken" not in all_traits()
    assert "runtime 'broken' of package 'broken' cannot be loaded" in caplog.text
    with pytest.raises(MissingDependencyError, match="runtime 'nameless' of package 'nameless' needs TRAITS"):
        load_backend("nameless")
    x = np.zeros((2, 8, 8, 3), np.uint8)
    with LocalDevice("theirs") as device:
        assert device.run_model(onnx_path, x).shape == (2, 5)


def test_operator_from_another_domain(tmp_path: Path) -> None:
    """Neither a custom operator nor its absence is guessed at."""
    graph = GraphBuilder((1, 4))
    graph.nodes.append(helper.make_node("Frobnicate", ["images"], ["y"], domain="example"))
    import onnx

    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    opset = [helper.make_opsetid("", 18), helper.make_opsetid("example", 1)]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "g", [graph.input], [result]),
        opset_imports=opset,
        ir_version=9,
    )
    path = tmp_path / "custom.onnx"
    onnx.save(model, path)
    for name in BACKENDS:
        with pytest.raises(CompileError, match=r"custom\.onnx"):
            compile_of(name)(path, tmp_path / name, HOST)


def test_networks_with_several_inputs_can_be_timed_and_not_called(tmp_path: Path) -> None:
    """A table looked up by ids, and a mask."""
    nodes = [helper.make_node("Gather", ["table", "ids"], ["rows"]), helper.make_node("Mul", ["rows", "mask"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "lookup",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, [1, 4]),
            helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, "n", 8]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones((3, 8), np.float32), "table")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "m.onnx")
    model = load_backend("onnxruntime").open_model(tmp_path / "m.onnx")
    model.bind(np.zeros((1, 4), np.int64))()
    with pytest.raises(InvalidValueError, match="the model has further inputs: mask"):
        model(np.zeros((1, 4), np.int64))


@pytest.mark.parametrize("kind", ["BOOL", "UINT16", "INT16", "UINT32", "UINT64"])
def test_onnxruntime_takes_inputs_of_every_type_of_numbers(kind: str, tmp_path: Path) -> None:
    graph = GraphBuilder((2, 3), getattr(TensorProto, kind))
    path = graph.save(tmp_path / "net.onnx", graph.node("Cast", "images", to=TensorProto.FLOAT))
    model = load_backend("onnxruntime").open_model(path)
    x = np.array([[0, 1, 0], [1, 1, 0]], dtype=model.input_dtype)
    assert model.input_dtype == kind.lower() and (model(x) == x).all()


@pytest.mark.parametrize("name", ["onnxruntime", "tvm"])
def test_weights_may_be_named_among_the_inputs(name: str, onnx_path: Path, tmp_path: Path) -> None:
    """As files before ONNX IR 4 had to: many are still about."""
    model = onnx.load(onnx_path)
    model.ir_version, model.opset_import[0].version = 3, 13
    for tensor in model.graph.initializer:
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    onnx.save(model, tmp_path / "old.onnx")
    backend = load_backend(name)
    compiled = backend.compile(tmp_path / "old.onnx", tmp_path / "built", HOST)
    opened, plain = backend.open_model(compiled.path), load_backend("onnxruntime").open_model(onnx_path)
    x = np.random.default_rng(0).integers(0, 256, plain.input_shape).astype(plain.input_dtype)
    np.testing.assert_allclose(opened(x), plain(x), atol=1e-5)
