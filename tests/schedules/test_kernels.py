"""Every kernel kind, on awkward shapes, against ONNX Runtime; one module per group of shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from hwautoml.compilers import load_backend
from hwautoml.compilers.base import Tuning
from tests.compilers.graphs import GraphBuilder
from tests.compilers.shared import compiler, target_for
from tests.schedules.single import HOST


def assert_same(
    onnx_path: Path,
    out_dir: Path,
    *,
    target: dict[str, object] | None = None,
    num_threads: int = 1,
    batch: int = 1,
    tune_budget_sec: float = 0.0,
) -> tuple[str, ...]:
    """Compiles with TVM, compares with ONNX Runtime, returns the names of the fallbacks."""
    tvm, reference = load_backend("tvm"), load_backend("onnxruntime").open_model(onnx_path)
    compiled = compiler().compile(
        onnx_path, out_dir, target_for(target or HOST, num_threads), Tuning(budget_sec=tune_budget_sec)
    )
    model = tvm.open_model(compiled.path, num_threads=num_threads)
    assert (model.input_name, model.input_shape) == (reference.input_name, reference.input_shape)
    shape = [batch if extent == -1 else extent for extent in model.input_shape]
    generator = np.random.default_rng(0)
    if model.input_dtype == "uint8":
        x = generator.integers(0, 256, shape, dtype="uint8")
    else:
        x = generator.standard_normal(shape).astype("float32")
    np.testing.assert_allclose(model(x), reference(x), rtol=2e-4, atol=2e-5)
    return compiled.fallbacks


def joined(graph: GraphBuilder, branches: list[str]) -> str:
    """Branches of any (n, c, h, w) as one output: their pixels side by side."""
    flat = [graph.node("Flatten", branch) for branch in branches]
    return graph.node("Concat", *flat, axis=1)


def test_dense_convolutions(tmp_path: Path) -> None:
    """Channel counts on both sides of every vector width, strides, kernels, activations."""
    graph = GraphBuilder((1, 5, 9, 11))
    cases = [
        (8, 1, 1, "relu"),
        (24, 3, 1, "relu6"),
        (40, 5, 2, "hardswish"),
        (7, 3, 2, "silu"),
        (16, 3, 1, "tanh"),
        (72, 1, 2, "sigmoid"),
        (37, 7, 1, "hardsigmoid"),
        (456, 1, 1, "relu"),
        (459, 1, 1, "relu"),
    ]
    branches = [
        graph.activation(graph.conv("images", 5, outputs, kernel, stride), activation)
        for outputs, kernel, stride, activation in cases
    ]
    path = graph.save(tmp_path / "dense.onnx", joined(graph, branches))
    assert assert_same(path, tmp_path) == ()


def test_depthwise_and_pooling(tmp_path: Path) -> None:
    """Windows of every size and stride, padded unevenly by the input's size."""
    graph = GraphBuilder((1, 48, 13, 10))
    branches = [
        graph.activation(graph.conv("images", 48, 48, kernel, stride, groups=48), activation)
        for kernel, stride, activation in [
            (3, 1, "relu"),
            (3, 2, "hardswish"),
            (5, 1, "silu"),
            (5, 2, "relu6"),
            (7, 1, "relu"),
            (7, 2, "hardswish"),
        ]
    ]
    narrow = graph.conv("images", 48, 20, 1)
    branches.append(graph.conv(narrow, 20, 20, 3, 1, groups=20))
    window = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    branches.append(graph.node("MaxPool", "images", **window))
    branches.append(graph.node("AveragePool", "images", **window))
    branches.append(graph.node("AveragePool", "images", count_include_pad=1, **window))
    path = graph.save(tmp_path / "windows.onnx", joined(graph, branches))
    assert assert_same(path, tmp_path) == ()


def network(path: Path, batch: int | str = 1, *, before_transpose: bool = True) -> Path:
    """Stem, two MBConv blocks with both gates, a residual block, head."""
    graph = GraphBuilder((batch, 16, 16, 3), TensorProto.UINT8)
    x = graph.normalised(3, before_transpose=before_transpose)
    x = stem = graph.activation(graph.conv(x, 3, 24, 3), "hardswish")
    for gate, activation in (("hardsigmoid", "hardswish"), ("sigmoid", "silu")):
        y = graph.activation(graph.conv(x, 24, 72, 1), activation)
        y = graph.activation(graph.conv(y, 72, 72, 5, groups=72), activation)
        y = graph.conv(graph.squeeze_excite(y, 72, gate), 72, 24, 1)
        x = graph.node("Add", x, y)
    y = graph.conv(graph.activation(graph.conv(x, 24, 32, 3, 2), "relu6"), 32, 32, 3)
    x = graph.activation(graph.node("Add", y, graph.conv(stem, 24, 32, 1, 2)), "relu")
    return graph.save(path, graph.head(x, 32, 10))


def test_whole_network(tmp_path: Path) -> None:
    """uint8 images to probabilities; the other way of writing the normalisation is in the next test."""
    assert assert_same(network(tmp_path / "net.onnx"), tmp_path) == ()


@pytest.mark.parametrize("mcpu", ["haswell", pytest.param("nehalem", marks=pytest.mark.slow)])
def test_narrower_vectors(tmp_path: Path, mcpu: str) -> None:
    """AVX2 and SSE code of the same network, normalised in its other layout."""
    path = network(tmp_path / "net.onnx", before_transpose=False)
    assert assert_same(path, tmp_path, target={"kind": "llvm", "mcpu": mcpu}) == ()


def test_batch_and_threads(tmp_path: Path) -> None:
    """Several images, several threads: layers large enough that loops are really shared out."""
    graph = GraphBuilder((2, 32, 32, 3), TensorProto.UINT8)
    x = graph.activation(graph.conv(graph.normalised(3), 3, 32, 3), "silu")
    x = graph.conv(x, 32, 32, 5, 2, groups=32)
    x = graph.activation(graph.conv(x, 32, 96, 1), "relu6")
    x = graph.squeeze_excite(graph.conv(x, 96, 96, 3, groups=96), 96, "hardsigmoid")
    path = graph.save(tmp_path / "net.onnx", graph.head(graph.conv(x, 96, 40, 1), 40, 10))
    assert assert_same(path, tmp_path, num_threads=2) == ()


def test_dynamic_batch(tmp_path: Path) -> None:
    """A batch size known only at run time."""
    path = network(tmp_path / "net.onnx", "batch")
    assert_same(path, tmp_path, batch=3)


def test_grouped_convolutions_and_multipliers(tmp_path: Path) -> None:
    """Grouped convolutions are no depthwise ones, and neither are depthwise ones with a multiplier."""
    graph = GraphBuilder((1, 16, 9, 9))
    grouped = graph.conv("images", 16, 32, 3, groups=4)
    multiplied = graph.conv("images", 16, 32, 3, groups=16)
    joint = graph.node("Concat", grouped, multiplied, axis=1)
    path = graph.save(tmp_path / "grouped.onnx", graph.conv(joint, 64, 8, 1), rank=4)
    assert assert_same(path, tmp_path) == ()


def test_products_of_unknown_batch(tmp_path: Path) -> None:
    """Products of activations of which there are as many as the batch says."""
    graph = GraphBuilder(("batch", 6, 8))
    turned = graph.node("Transpose", "images", perm=[0, 2, 1])
    square = graph.node("MatMul", "images", turned)  # (batch, 6, 6)
    path = graph.save(tmp_path / "product.onnx", graph.node("MatMul", square, "images"), rank=3)
    assert assert_same(path, tmp_path, batch=3) == ()


def test_fallbacks_are_correct_and_named(tmp_path: Path) -> None:
    """What no family covers is reported: a product whose columns are known only at run time."""
    graph = GraphBuilder(("batch", "rows", 8))
    turned = graph.node("Transpose", "images", perm=[0, 2, 1])
    path = graph.save(tmp_path / "product.onnx", graph.node("MatMul", "images", turned), rank=3)
    fallbacks = assert_same(path, tmp_path, batch=3)
    assert len(fallbacks) == 1 and "matmul" in fallbacks[0]


def test_tuned_network(tmp_path: Path) -> None:
    """What the tuner picks still computes the same."""
    path = network(tmp_path / "net.onnx")
    assert assert_same(path, tmp_path, tune_budget_sec=2.0) == ()


@pytest.mark.parametrize("batch", [1, "batch"])
def test_what_is_multiplied_by_zero_compiles(tmp_path: Path, batch: int | str) -> None:
    """No bounds can be found for tiles of what nothing reads: LLVM worked for minutes on such a function."""
    graph = GraphBuilder((batch, 8, 12, 12))
    dropped = graph.node("Mul", graph.conv("images", 8, 16, 3), graph.constant(np.float32(0.0)))
    path = graph.save(tmp_path / "cell.onnx", dropped, rank=4)
    fallbacks = assert_same(path, tmp_path, batch=3 if batch == "batch" else 1)
    assert len(fallbacks) == 1 and "multiply" in fallbacks[0]


def test_rows_of_unknown_batch(tmp_path: Path) -> None:
    """Six rows an image: how many in all is computed from the batch, which the functions are told."""
    graph = GraphBuilder(("batch", 6, 8))
    rows = graph.node("Reshape", "images", graph.constant(np.array([-1, 8], dtype="int64")))
    x = graph.node("Add", graph.node("MatMul", graph.node("Sigmoid", rows), graph.random(8, 16)), graph.random(16))
    path = graph.save(tmp_path / "rows.onnx", graph.node("Relu", x), rank=2)
    assert assert_same(path, tmp_path, batch=3) == ()


def test_images_of_unknown_size(tmp_path: Path) -> None:
    """Whatever keeps plain loops then: the result is right."""
    graph = GraphBuilder(("batch", 8, "height", "width"))
    x = graph.activation(graph.conv("images", 8, 16, 1), "relu")
    path = graph.save(tmp_path / "any.onnx", graph.conv(x, 16, 16, 3), rank=4)
    assert_same(path, tmp_path, batch=5)
