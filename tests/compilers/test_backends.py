"""The contract that every backend keeps, with the real runtimes."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwautoml.compilers import backend_names, load_backend
from hwautoml.errors import CompileError, InvalidValueError, UnknownNameError
from tests.compilers.graphs import GraphBuilder
from tests.compilers.shared import compile_model_of

BACKENDS = ("onnxruntime", "tvm")  # those that compile ONNX and can be run anywhere
GPU_BACKENDS = {"onnxruntime-cuda": "CUDAExecutionProvider", "onnxruntime-tensorrt": "TensorrtExecutionProvider"}
HOST = {"kind": "llvm", "mcpu": "native"}


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
        assert name == backend.RUNTIME  # type: ignore[attr-defined]
        assert (".pt2" if name.startswith("torch") else ".onnx") == backend.SOURCE_SUFFIX


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
            backend.compile_model(onnx_path, tmp_path, tvm_target=HOST)
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


@pytest.mark.parametrize("name", BACKENDS)
def test_compile_open_run(name: str, onnx_path: Path, tmp_path: Path) -> None:
    backend = load_backend(name)
    assert backend.unavailable_reason() is None
    assert backend.version()
    messages: list[str] = []
    report: Callable[[int, int, str], None] = lambda _done, _total, text: messages.append(text)  # noqa: E731
    compiled = backend.compile_model(onnx_path, tmp_path, tvm_target=HOST, on_progress=report)
    assert (compiled.runtime, compiled.tuned, compiled.tune_sec) == (name, 0, 0.0)
    assert compiled.functions > 0
    assert messages
    assert list(tmp_path.iterdir()) == [compiled.path]
    model = backend.open_model(compiled.path)
    assert (model.input_name, model.input_dtype) == ("images", "uint8")
    assert (model.input_shape, model.output_shape) == ((1, 8, 8, 3), (1, 5))
    x = np.random.default_rng(0).integers(0, 256, model.input_shape, dtype="uint8")
    probabilities = model(x)
    assert probabilities.shape == (1, 5)
    assert probabilities.sum() == pytest.approx(1.0, abs=1e-5)
    run = model.bind(x)
    assert run() is None
    np.testing.assert_array_equal(model(x), probabilities)
    for call in (model, model.bind):
        with pytest.raises(InvalidValueError, match="images"):
            call(np.zeros((1, 3, 8, 8), "float32"))


@pytest.mark.parametrize("name", BACKENDS)
def test_a_file_that_was_replaced_is_opened_anew(name: str, tmp_path: Path) -> None:
    """As a profiler does with its probes; a dynamic loader would remember the path."""
    backend, models = load_backend(name), []
    for seed in (0, 1):
        graph = GraphBuilder((1, 4, 8, 8), seed=seed)
        source = graph.save(tmp_path / f"{seed}.onnx", graph.conv("images", 4, 4, 3), rank=4)
        models.append(backend.open_model(compile_model_of(name)(source, tmp_path / "out", tvm_target=HOST).path))
    x = np.ones((1, 4, 8, 8), "float32")
    assert np.abs(models[0](x) - models[1](x)).max() > 0.1


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("content", [b"", b"not a model", b"truncated"])
def test_unreadable_model_is_named(name: str, content: bytes, onnx_path: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(onnx_path.read_bytes()[:-200] if content == b"truncated" else content)
    with pytest.raises(CompileError, match=r"broken\.onnx"):
        compile_model_of(name)(broken, tmp_path / "out", tvm_target=HOST)
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("name", BACKENDS)
def test_missing_model_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"nowhere\.onnx"):
        compile_model_of(name)(tmp_path / "nowhere.onnx", tmp_path, tvm_target=HOST)


@pytest.mark.parametrize("name", BACKENDS)
def test_damaged_artifact_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"\x7fELF and nothing more")
    with pytest.raises(CompileError, match=r"model\.bin"):
        load_backend(name).open_model(path)


@pytest.mark.parametrize("name", BACKENDS)
def test_num_threads_is_checked(name: str, onnx_path: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="num_threads"):
        load_backend(name).compile_model(onnx_path, tmp_path, tvm_target=HOST, num_threads=0)


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
            compile_model_of(name)(path, tmp_path / name, tvm_target=HOST)


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
    compiled = backend.compile_model(tmp_path / "old.onnx", tmp_path / "built", tvm_target=HOST)
    opened, plain = backend.open_model(compiled.path), load_backend("onnxruntime").open_model(onnx_path)
    x = np.random.default_rng(0).integers(0, 256, plain.input_shape).astype(plain.input_dtype)
    np.testing.assert_allclose(opened(x), plain(x), atol=1e-5)
