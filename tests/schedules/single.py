"""Small networks scheduled and run in this process, with a chosen candidate for each function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import tvm
from tvm import relax, tirx
from tvm.relax.backend.cpu_generic import pipeline
from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

from hwautoml.compilers import load_backend
from hwautoml.schedules import dispatch
from hwautoml.schedules.dispatch import Machine
from hwautoml.schedules.host import resolve_target
from hwautoml.schedules.integer_products import described, described_eights, intrinsic_name
from hwautoml.schedules.kernel import Kernel
from hwautoml.schedules.library import function_key, functions_of, schedule_module
from hwautoml.schedules.lowering import import_onnx, lower
from hwautoml.schedules.vector_unit import VectorUnit, vector_unit

HOST = {"kind": "llvm", "mcpu": "native"}


def functions(path: Path, target: tvm.target.Target) -> tvm.IRModule:
    """The network's functions before they are scheduled."""
    return lower(import_onnx(onnx.load(path), path.name), target, path.name)


def with_plain_byte_products(unit: VectorUnit) -> VectorUnit:
    """A unit whose products of bytes run anywhere: generic vectors in place of the instruction, all else as it is."""
    plain = [(lanes, f"plain.{unit.byte_dtype}x{4 * lanes}") for lanes, _ in unit.byte_products]
    for lanes, name in plain:
        fours, eights = _generic_products(lanes, unit.byte_dtype)
        TensorIntrin.register(
            intrinsic_name(name, 4), described(lanes, 4, unit.byte_dtype, "int8"), fours, override=True
        )
        if unit.num_fours == 2:
            TensorIntrin.register(intrinsic_name(name, 8), described_eights(lanes), eights, override=True)
    return replace(unit, byte_products=tuple(plain))


def _generic_products(lanes: int, dtype: str) -> tuple[object, object]:
    """Of fours and eights."""
    many = f"int32x{lanes}"

    def product(data: tirx.Buffer, start: int, weights: tirx.PrimExpr) -> tirx.PrimExpr:
        """Each of the four numbers with its weights as a vector: scalars would take LLVM ten times as long."""
        terms = [
            T.broadcast(T.cast(data[start + part], "int32"), lanes)
            * T.Cast(many, T.Shuffle([weights], [4 * lane + part for lane in range(lanes)]))
            for part in range(4)
        ]
        return terms[0] + terms[1] + terms[2] + terms[3]

    @T.prim_func(s_tir=True)
    def fours(
        data: T.Buffer((4,), dtype, offset_factor=1),
        weights: T.Buffer((lanes, 4), "int8", offset_factor=1),
        sums: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(sums[0:lanes], data[0:4], weights[0:lanes, 0:4])
            T.writes(sums[0:lanes])
            sums[T.ramp(T.int32(0), 1, lanes)] = sums.vload([0], dtype=many) + product(
                data, 0, weights.vload([0, 0], dtype=f"int8x{4 * lanes}")
            )

    @T.prim_func(s_tir=True)
    def eights(
        data: T.Buffer((8,), dtype, offset_factor=1),
        weights: T.Buffer((2, lanes, 4), "int8", offset_factor=1),
        sums: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(sums[0:lanes], data[0:8], weights[0:2, 0:lanes, 0:4])
            T.writes(sums[0:lanes])
            sums[T.ramp(T.int32(0), 1, lanes)] = (
                sums.vload([0], dtype=many)
                + product(data, 0, weights.vload([0, 0, 0], dtype=f"int8x{4 * lanes}"))
                + product(data, 4, weights.vload([1, 0, 0], dtype=f"int8x{4 * lanes}"))
            )

    return fours, eights


def assert_candidates_agree(
    path: Path,
    choose: int,
    *,
    num_threads: int = 1,
    batch: int = 1,
    tolerance: float = 1e-4,
    mean_tolerance: float = 1.0,
    processor: Mapping[str, object] = HOST,
) -> dict[str, str]:
    """Compares candidate number ``choose`` (modulo how many there are) of every function with ONNX Runtime.

    Differences are relative to the largest number of the result. A candidate that does not apply gives way to the
    fixed rule, as it does for users. Functions and schedules are those for ``processor``, run on this one: with plain
    code for products of bytes that it lacks, or may lack.
    Returns each function's family; every function must have been scheduled by one.
    """
    target = resolve_target(processor, num_threads)
    module, unit = functions(path, target), vector_unit(target)
    if processor is not HOST:
        unit = with_plain_byte_products(unit)
    machine_ = built(module, Machine(unit, num_threads), choose)
    reference = load_backend("onnxruntime").open_model(path)
    shape = [batch if extent == -1 else extent for extent in reference.input_shape]
    x = np.random.default_rng(choose).standard_normal(shape).astype("float32")
    expected, got = reference(x), machine_["main"](tvm.runtime.tensor(x)).numpy()
    assert np.abs(expected - got).max() <= tolerance * np.abs(expected).max()
    assert np.abs(expected - got).mean() <= mean_tolerance * np.abs(expected).max()
    families = {name: dispatch.family_of(Kernel(function)) for name, function in functions_of(module).items()}
    return {name: family.NAME for name, family in families.items() if family is not None}


def built(module: tvm.IRModule, machine: Machine, choose: int) -> relax.VirtualMachine:
    """The lowered module with candidate number ``choose`` (modulo how many there are) of every function."""
    tilings = {}
    for function in functions_of(module).values():
        found = dispatch.candidates(function, machine)
        if found:
            tilings[function_key(function)] = found[choose % len(found)]
    scheduled, report = schedule_module(module, machine, tilings)
    assert not report.fallbacks, (report, tilings)
    target = resolve_target(HOST, machine.num_threads)
    passes = [*pipeline.dataflow_lower_passes(target), *pipeline.finalize_passes(target)]
    executable = tvm.compile(scheduled, target=target, relax_pipeline=tvm.transform.Sequential(passes))
    return relax.VirtualMachine(executable, tvm.cpu())
