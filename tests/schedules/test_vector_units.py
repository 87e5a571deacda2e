"""What the schedules take each processor to be, and that its vectors end up in the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tvm

from hwautoml.schedules.arena import PIPELINE
from hwautoml.schedules.dispatch import Machine, candidates, scheduled
from hwautoml.schedules.library import functions_of, schedule_module
from hwautoml.schedules.vector_unit import vector_unit
from tests.compilers.graphs import GraphBuilder
from tests.schedules.single import functions

AVX2 = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "znver3"}
AVX512 = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "skylake-avx512"}
NEON = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72", "mattr": ["+neon"]}
NEON32 = {"kind": "llvm", "mtriple": "armv7a-linux-gnueabihf", "mcpu": "cortex-a7", "mattr": ["+neon"]}
RVV = {
    "kind": "llvm",
    "mtriple": "riscv64-linux-gnu",
    "mcpu": "generic-rv64",
    "mattr": ["+m", "+f", "+d", "+v", "+zvl256b"],
}
RVV_BY_NAME = {"kind": "llvm", "mtriple": "riscv64-linux-gnu", "mcpu": "sifive-x280"}
SCALAR = {"kind": "llvm", "mtriple": "riscv64-linux-gnu", "mcpu": "sifive-u74"}


@pytest.mark.parametrize(
    ("mapping", "lanes", "registers", "pair_widths", "byte_widths"),
    [
        (AVX2, 8, 16, [4, 8], []),
        (AVX2 | {"mcpu": "alderlake"}, 8, 16, [4, 8], [4, 8]),
        (AVX512, 16, 32, [4, 8, 16], []),
        (AVX512 | {"mcpu": "cascadelake"}, 16, 32, [4, 8, 16], [4, 8, 16]),
        (NEON, 4, 32, [], []),
        (NEON | {"mattr": ["+neon", "+dotprod"]}, 4, 32, [], [4]),
        (NEON | {"mcpu": "cortex-a76"}, 4, 32, [], [4]),
        (NEON32, 4, 16, [], []),
        (RVV, 8, 32, [], []),
        (SCALAR, 4, 8, [], []),
    ],
)
def test_width_registers_and_products_come_from_the_target(
    mapping: dict[str, object], lanes: int, registers: int, pair_widths: list[int], byte_widths: list[int]
) -> None:
    unit = vector_unit(tvm.target.Target(mapping))
    assert (unit.lanes, unit.num_registers) == (lanes, registers)
    assert [width for width, _ in unit.pair_products] == pair_widths
    assert [width for width, _ in unit.byte_products] == byte_widths


@pytest.mark.parametrize(("height", "width"), [(1, 11), (2, 11), (7, 7)])
@pytest.mark.parametrize(("mapping", "outputs"), [(AVX512, 24), (AVX512, 37), (AVX2, 20), (NEON, 10)])
def test_tiles_need_neither_whole_vectors_nor_whole_rows(
    tmp_path: Path, mapping: dict[str, object], outputs: int, height: int, width: int
) -> None:
    """Tiles that cross rows and crop channels once had no bounds, and the convolutions took plain loops."""
    graph, target = GraphBuilder((1, 16, height, width)), tvm.target.Target(mapping)
    path = graph.save(tmp_path / "net.onnx", graph.conv("images", 16, outputs, 1), rank=4)
    machine = Machine(vector_unit(target))
    (function,) = (f for name, f in functions_of(functions(path, target)).items() if "conv2d" in name)
    found = candidates(function, machine)
    assert found
    assert [tiling for tiling in found if scheduled(function, tiling, machine) is None] == []


def test_sums_stay_in_their_registers_on_arm(tmp_path: Path) -> None:
    """Where steps are unrolled each pixel's inputs take a register; 28 sums besides made 50 moves per 112 products."""
    graph = GraphBuilder((1, 64, 14, 14))
    path = graph.save(tmp_path / "net.onnx", graph.conv("images", 64, 96, 1), rank=4)
    target = tvm.target.Target(NEON)
    module, _ = schedule_module(functions(path, target), Machine(vector_unit(target)), {})
    (function,) = (f for name, f in functions_of(module).items() if "conv2d" in name)
    alone = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    code = tvm.compile(alone, target=target, tir_pipeline=PIPELINE).mod.inspect_source("asm")
    innermost = max(re.split(r"\n\.LBB\w+:", code), key=lambda block: block.count("fmla"))
    assert innermost.count("fmla") >= 64
    assert not re.search(r"\tmov\tv|\t(ldr|str|ldp|stp)\tq.*\[sp", innermost)


@pytest.mark.parametrize(
    ("mapping", "multiply_add"),
    [
        (AVX2, "ymm"),
        (AVX512, "zmm"),
        (NEON, "fmla"),
        (NEON32, "vmul.f32\tq"),
        (RVV, "vfmacc"),
        (RVV_BY_NAME, "vfmacc"),
        (SCALAR, "fmadd"),
    ],
)
def test_code_is_vectors_of_the_target(tmp_path: Path, mapping: dict[str, object], multiply_add: str) -> None:
    """Compiled for machines that are not here: the instructions are looked at, not run."""
    graph = GraphBuilder((1, 24, 9, 9))
    x = graph.activation(graph.conv("images", 24, 32, 3), "relu")
    path = graph.save(tmp_path / "net.onnx", graph.conv(x, 32, 32, 5, groups=32), rank=4)
    target = tvm.target.Target(mapping)
    machine = Machine(vector_unit(target))
    module, report = schedule_module(functions(path, target), machine, {})
    assert not report.fallbacks
    for name, function in functions_of(module).items():
        if "conv2d" in name:
            alone = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
            built = tvm.compile(alone, target=target, tir_pipeline=PIPELINE)
            assert multiply_add in built.mod.inspect_source("asm"), name
