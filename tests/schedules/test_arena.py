"""Networks as one function, against the same functions called by TVM's virtual machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax

from hwautoml.compilers import load_backend
from hwautoml.schedules import arena
from hwautoml.schedules.dispatch import Machine
from hwautoml.schedules.host import resolve_target
from hwautoml.schedules.library import schedule_module
from hwautoml.schedules.vector_unit import vector_unit
from tests.compilers.graphs import GraphBuilder
from tests.compilers.shared import compiler, target_for
from tests.schedules.single import HOST, functions


def network(path: Path) -> Path:
    """Convolutions with padding, a branch and a reshape."""
    graph = GraphBuilder((1, 8, 10, 10))
    first = graph.conv("images", 8, 16, 3)
    second = graph.node("Relu", first)
    third = graph.node("Add", second, graph.conv(second, 16, 16, 3, groups=16))
    graph.save(path, graph.node("Softmax", graph.node("Flatten", graph.node("GlobalAveragePool", third))))
    return path


def built(module: tvm.IRModule, target: tvm.target.Target, *, is_whole: bool) -> relax.VirtualMachine:
    passes, tir = arena.graph_passes(target, is_whole=is_whole), arena.PIPELINE if is_whole else "default"
    return relax.VirtualMachine(tvm.compile(module, target=target, relax_pipeline=passes, tir_pipeline=tir), tvm.cpu())


@pytest.mark.parametrize("num_threads", [1, 2])
def test_it_computes_what_its_functions_do(tmp_path: Path, num_threads: int) -> None:
    path, target = network(tmp_path / "n.onnx"), resolve_target(HOST, num_threads)
    scheduled, _ = schedule_module(functions(path, target), Machine(vector_unit(target), num_threads), {})
    whole, names = arena.in_one_arena(scheduled, target)
    assert len(names) >= 4
    x = tvm.runtime.tensor(np.random.default_rng(0).standard_normal((1, 8, 10, 10)).astype("float32"))
    one, many = built(whole, target, is_whole=True), built(scheduled, target, is_whole=False)
    for _ in range(3):  # what a run leaves in the workspace is nothing to the next
        np.testing.assert_array_equal(one["main"](x).numpy(), many["main"](x).numpy())
    times = one[arena.TIMED](x).numpy()
    assert times.shape == (len(names) + 1,) and (np.diff(times) >= 0).all()


def test_a_graph_of_unknown_size_stays_as_it_is(tmp_path: Path) -> None:
    graph, path, target = GraphBuilder(("batch", 8, 10, 10)), tmp_path / "n.onnx", resolve_target(HOST, 1)
    graph.save(path, graph.node("Relu", graph.conv("images", 8, 8, 3)), rank=4)
    scheduled, _ = schedule_module(functions(path, target), Machine(vector_unit(target), 1), {})
    whole, names = arena.in_one_arena(scheduled, target)
    assert whole is scheduled and names == ()


def test_models_in_one_process_share_nothing(tmp_path: Path) -> None:
    """Two libraries with functions of the same names, run by turns."""
    backend = load_backend("tvm")
    models, expected = [], []
    x = np.random.default_rng(1).standard_normal((1, 8, 10, 10)).astype("float32")
    for number, scale in enumerate((1.0, -2.0)):
        graph = GraphBuilder((1, 8, 10, 10))
        scaled = graph.node("Mul", graph.conv("images", 8, 8, 3), graph.constant(np.float32([scale])))
        path = tmp_path / f"{number}.onnx"
        graph.save(path, graph.node("Relu", scaled), rank=4)
        compiled = compiler().compile(path, tmp_path / str(number), target_for(HOST))
        models.append(backend.open_model(compiled.path))
        expected.append(load_backend("onnxruntime").open_model(path)(x))
    for model, wanted in zip(models * 2, expected * 2, strict=True):
        np.testing.assert_allclose(model(x), wanted, rtol=1e-4, atol=1e-5)


def test_a_network_that_returns_as_much_as_it_takes(tmp_path: Path) -> None:
    path = tmp_path / "n.onnx"
    graph = GraphBuilder((1, 8, 1, 1))
    graph.save(path, graph.node("Relu", "images"), rank=4)
    backend = load_backend("tvm")
    model = backend.open_model(compiler().compile(path, tmp_path / "out", target_for(HOST)).path)
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(1, 8, 1, 1)
    np.testing.assert_array_equal(model(x), np.maximum(x, 0))


def test_maps_that_go_in_and_out_are_copied(tmp_path: Path) -> None:
    path = tmp_path / "n.onnx"
    graph = GraphBuilder((1, 16, 20, 20))
    # The input is used twice: its place in the workspace is an expression that occurs three times.
    graph.save(path, graph.node("Add", graph.conv("images", 16, 16, 3), graph.conv("images", 16, 16, 1)), rank=4)
    backend, reference = load_backend("tvm"), load_backend("onnxruntime").open_model(path)
    model = backend.open_model(compiler().compile(path, tmp_path / "out", target_for(HOST)).path)
    for seed in range(2):
        x = np.random.default_rng(seed).standard_normal((1, 16, 20, 20)).astype("float32")
        np.testing.assert_allclose(model(x), reference(x), rtol=1e-4, atol=1e-5)
