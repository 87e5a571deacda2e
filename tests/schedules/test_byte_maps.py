"""Products of bytes, four together: few machines that run this have a processor for them, and none has all kinds.

Networks are lowered and scheduled as for such a processor and run on this one, with plain loops in place of the single
instruction that it may lack; that the instruction is in the code for the processor itself is looked at.
(``tests/edge`` runs ARM's on an emulated board, ``test_quantized`` whatever the machine at hand has.)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import tvm
from hypothesis import example, given
from hypothesis import strategies as st

from hwautoml.schedules.dispatch import Machine
from hwautoml.schedules.library import function_key, functions_of, schedule_module
from hwautoml.schedules.vector_unit import vector_unit
from tests.compilers.graphs import GraphBuilder
from tests.schedules.single import built, functions, with_plain_byte_products
from tests.schedules.test_families import few
from tests.schedules.test_quantized import BLOCKS, CONVOLUTIONS, assert_agree, block, convolutions, quantized

DOTPROD = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76"}
VNNI = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "cascadelake"}
AVX_VNNI = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "alderlake"}
WITHOUT = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"}
PROCESSOR = st.sampled_from([DOTPROD, VNNI, AVX_VNNI])


def chain(folder: Path, kernel: int = 1, stride: int = 1) -> Path:
    """Two convolutions with a sum after them: the map between them is read by the second one, and by the sum."""
    shape = (1, 16, 9, 9)
    graph = GraphBuilder(shape)
    x = graph.activation(graph.conv("images", 16, 32, kernel, stride), "hardswish")
    x = graph.node("Add", graph.conv(x, 32, 32, 1), x)
    return quantized(graph, graph.conv(x, 32, 16, 1), folder / "chain.onnx", shape)


@few(3)
@given(processor=PROCESSOR, **CONVOLUTIONS)
@example(
    processor=DOTPROD,
    batch=1,
    inputs=3,
    outputs=24,
    height=9,
    width=15,
    kernel=3,
    stride=2,
    activation="hardswish",
    choose=0,
)
@example(
    processor=VNNI, batch=1, inputs=7, outputs=16, height=6, width=5, kernel=3, stride=1, activation="none", choose=0
)
def test_convolutions(tmp_path: Path, **drawn: int) -> None:
    convolutions(tmp_path, **drawn)


@pytest.mark.slow
@few(25)
@given(processor=PROCESSOR, **CONVOLUTIONS)
def test_convolutions_of_many_shapes(tmp_path: Path, **drawn: int) -> None:
    convolutions(tmp_path, **drawn)


@few(2)
@given(processor=PROCESSOR, **BLOCKS)
def test_blocks(tmp_path: Path, **drawn: int) -> None:
    block(tmp_path, **drawn)


@pytest.mark.slow
@few(10)
@given(processor=PROCESSOR, **BLOCKS)
def test_many_blocks(tmp_path: Path, **drawn: int) -> None:
    block(tmp_path, **drawn)


@pytest.mark.parametrize("outputs", [8, 10])
def test_matrix_products(tmp_path: Path, outputs: int) -> None:
    """With a number of inputs that is no multiple of four; ten outputs are whole vectors of no processor."""
    shape = (2, 13, 6, 6)
    graph = GraphBuilder(shape)
    path = quantized(graph, graph.head("images", 13, outputs), tmp_path / "head.onnx", shape, rank=2)
    assert "packed" in assert_agree(path, choose=1, processor=DOTPROD)
    found = functions_of(functions(path, tvm.target.Target(DOTPROD)))
    (dense,) = (function for name, function in found.items() if "packed_dense" in name)
    assert [str(parameter.dtype) for parameter in dense.params][:2] == ["int8" if outputs == 8 else "int16"] * 2


@pytest.mark.parametrize(("processor", "kernel", "stride"), [(DOTPROD, 3, 2), (VNNI, 1, 1), (AVX_VNNI, 5, 1)])
def test_results_are_those_of_int16(tmp_path: Path, processor: Mapping[str, object], kernel: int, stride: int) -> None:
    """To the last bit: shifting maps into bytes loses nothing, at the borders of images neither."""
    path = chain(tmp_path, kernel, stride)
    x = np.random.default_rng(0).standard_normal((1, 16, 9, 9)).astype("float32")
    results = []
    for mapping in (processor, WITHOUT):
        target = tvm.target.Target(mapping)
        machine = Machine(with_plain_byte_products(vector_unit(target)))
        results.append(built(functions(path, target), machine, 0)["main"](tvm.runtime.tensor(x)).numpy())
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    ("processor", "instruction"), [(DOTPROD, "sdot\tv"), (VNNI, "vpdpbusd\t"), (AVX_VNNI, "vpdpbusd\t")]
)
def test_the_instruction_is_in_the_code(tmp_path: Path, processor: Mapping[str, object], instruction: str) -> None:
    """And maps are bytes wherever a product reads them, even if a sum reads them, too."""
    path, target = chain(tmp_path), tvm.target.Target(processor)
    scheduled, report = schedule_module(functions(path, target), Machine(vector_unit(target)), {})
    assert not report.fallbacks
    found = {name: function for name, function in functions_of(scheduled).items() if "packed" in name}
    assert len(found) == 3, list(found)
    for name, function in found.items():
        built = tvm.compile(tvm.IRModule({"main": function.with_attr("global_symbol", "main")}), target=target)
        assert instruction in built.mod.inspect_source("asm"), name
        dtypes = [str(parameter.dtype) for parameter in function.params]
        assert "int16" not in dtypes and dtypes.count("int8") >= 1, (name, dtypes)


def test_a_processor_without_keeps_int16(tmp_path: Path) -> None:
    found = functions_of(functions(chain(tmp_path), tvm.target.Target(WITHOUT)))
    dtypes = {str(parameter.dtype) for function in found.values() for parameter in function.params}
    assert dtypes == {"float32", "int16"}


def test_networks_calibrated_differently_share_records(tmp_path: Path) -> None:
    """Zero points are numbers within functions, as scales are; another form of product is another function."""
    shape, keys = (1, 8, 6, 6), []
    for factor, processor in ((1.0, DOTPROD), (3.0, DOTPROD), (1.0, WITHOUT)):
        graph = GraphBuilder(shape)
        x = graph.node("Mul", "images", graph.constant(np.float32(factor)))
        x = graph.conv(graph.activation(graph.conv(x, 8, 16, 3, 2), "hardswish"), 16, 8, 1)
        x = graph.conv(graph.conv(x, 8, 8, 3, groups=8), 8, 8, 1)
        path = quantized(graph, x, tmp_path / f"{factor}.onnx", shape)
        found = functions_of(functions(path, tvm.target.Target(processor)))
        keys.append({function_key(function) for name, function in found.items() if "conv" in name})
    assert keys[0] == keys[1] and len(keys[0]) == 4
    assert not keys[0] & keys[2]
