"""What TVM compiles for GPUs, looked at on machines without one: the arithmetic on the processor, the rest as code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from onnx import TensorProto, helper
from tvm import relax

from hwautoml.compilers import _tvm_cuda
from hwautoml.compilers import tvm as backend
from hwautoml.core.resources import target_folders
from hwautoml.core.target import load_target
from hwautoml.errors import MissingDependencyError
from hwautoml.exporters import half_onnx
from hwautoml.schedules.host import resolve_target
from hwautoml.schedules.lowering import import_onnx
from tests.compilers.graphs import GraphBuilder
from tests.compilers.shared import compiler

GPU = load_target("gpu", target_folders())
CPU = tvm.target.Target({"kind": "llvm"})


def on_the_processor(module: tvm.IRModule, *inputs: np.ndarray) -> np.ndarray:
    """What a graph computes, by TVM's own schedules for processors."""
    with CPU:
        executable = tvm.compile(module, target=CPU, relax_pipeline=relax.get_default_pipeline(CPU))
    run = relax.VirtualMachine(executable, tvm.cpu())["main"]
    return run(*map(tvm.runtime.tensor, inputs)).numpy()


def all_ones(
    operator: str, shape: tuple[int, ...], weights: tuple[int, ...] | None, **attributes: object
) -> onnx.ModelProto:
    """An operator in fp16 on ones."""
    inputs = ["x"] if weights is None else ["x", "w"]
    constant = [] if weights is None else [onnx.numpy_helper.from_array(np.ones(weights, "float16"), "w")]
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, ["y"], **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, None)],
        constant,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize(
    ("operator", "shape", "weights", "attributes", "expected"),
    [
        ("Conv", (1, 512, 3, 3), (1, 512, 3, 3), {}, 4608),
        ("MatMul", (1, 5000), (5000, 1), {}, 5000),
        ("ReduceMean", (1, 5000), None, {"axes": [1]}, 1),
        ("GlobalAveragePool", (1, 1, 70, 70), None, {}, 1),
    ],
)
def test_sums_of_fp16_are_taken_in_float32(
    operator: str,
    shape: tuple[int, ...],
    weights: tuple[int, ...] | None,
    attributes: dict[str, object],
    expected: float,
) -> None:
    """A sum in fp16 never gets beyond 2048 in steps of one."""
    module = import_onnx(all_ones(operator, shape, weights, **attributes), "ones")
    x = np.ones(shape, "float16")
    changed = _tvm_cuda.with_float32_sums(module)
    relax.analysis.well_formed(changed)  # else raises
    result = on_the_processor(changed, x)
    assert result.dtype == np.float16 and result.item() == expected
    assert on_the_processor(module, x).item() < expected, "TVM by itself sums in fp16"


def network(folder: Path, *, batch: int | str = 2) -> Path:
    graph = GraphBuilder((batch, 8, 8, 3), TensorProto.UINT8)
    x = graph.activation(graph.conv(graph.normalised(3), 3, 8, 3), "relu")
    return graph.save(folder / "net.onnx", graph.head(graph.conv(x, 8, 16, 3, 2), 16, 5))


def test_an_fp16_network_computes_what_the_float32_network_does(tmp_path: Path) -> None:
    source = network(tmp_path)
    half = half_onnx(source, tmp_path / "half.onnx").path
    x = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    expected = on_the_processor(import_onnx(onnx.load(source), "net"), x)
    got = on_the_processor(_tvm_cuda.with_float32_sums(import_onnx(onnx.load(half), "half")), x)
    assert got.dtype == np.float32 and 0 < np.abs(expected - got).max() / expected.max() < 10 * 2.0**-10


@pytest.mark.parametrize(("batch", "is_captured"), [(2, True), ("n", False)])
def test_kernels_are_captured_as_a_graph_where_shapes_are_known(
    batch: int | str, is_captured: bool, tmp_path: Path
) -> None:
    half = half_onnx(network(tmp_path, batch=batch), tmp_path / "half.onnx").path
    lowered = _tvm_cuda.lower_for_cuda(import_onnx(onnx.load(half), "half"), resolve_target(GPU.tvm, 1))
    text = lowered.script()
    assert is_captured == ("cuda_graph.run_or_capture" in text) == ("as a CUDA graph" in _tvm_cuda.launches(lowered))
    names = [variable.name_hint for variable in lowered.get_global_vars()]
    assert (backend.CAPTURED in names) == is_captured
    assert "threadIdx.x" in text and "T.float16" in text


@pytest.mark.slow
def test_a_library_for_a_gpu_says_so_where_there_is_none(tmp_path: Path) -> None:
    if tvm.cuda().exist:
        pytest.skip("there is a CUDA device")
    compiled = compiler().compile(network(tmp_path), tmp_path / "out", GPU)
    with pytest.raises(MissingDependencyError, match=r"model\.so is compiled for a CUDA device, and TVM finds none"):
        backend.open_model(compiled.path)
