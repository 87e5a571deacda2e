"""The contract that every backend keeps, with the real runtimes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from hwautoml.compilers import backend_names, load_backend
from hwautoml.errors import CompileError, InvalidValueError, UnknownNameError
from tests.compilers.graphs import GraphBuilder

BACKENDS = ("onnxruntime", "tvm")
HOST = {"kind": "llvm", "mcpu": "native"}


@pytest.fixture(scope="module")
def onnx_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small classifier of 8 x 8 uint8 images."""
    graph = GraphBuilder((1, 8, 8, 3), TensorProto.UINT8)
    x = graph.activation(graph.conv(graph.normalised(3), 3, 16, 3), "relu")
    return graph.save(tmp_path_factory.mktemp("onnx") / "net.onnx", graph.head(x, 16, 5))


def test_backends_are_the_files_of_the_folder() -> None:
    assert backend_names() == BACKENDS


def test_listing_backends_imports_none_of_them() -> None:
    code = (
        "import sys; from hwautoml.compilers import backend_names; backend_names(); "
        "assert not {'tvm', 'onnxruntime', 'onnx', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["onnxruntim", "base", "_files", "graphs"])
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
@pytest.mark.parametrize("content", [b"", b"not a model", b"truncated"])
def test_unreadable_model_is_named(
    name: str, content: bytes, onnx_path: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(onnx_path.read_bytes()[:-200] if content == b"truncated" else content)
    with pytest.raises(CompileError, match=r"broken\.onnx"):
        load_backend(name).compile_model(broken, tmp_path / "out", tvm_target=HOST)
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("name", BACKENDS)
def test_missing_model_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"nowhere\.onnx"):
        load_backend(name).compile_model(tmp_path / "nowhere.onnx", tmp_path, tvm_target=HOST)


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
            load_backend(name).compile_model(path, tmp_path / name, tvm_target=HOST)
