"""Small networks scheduled and run in this process, with a chosen candidate for each function."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import tvm
from tvm import relax
from tvm.relax.backend.cpu_generic import pipeline

from hwautoml.compilers import load_backend
from hwautoml.schedules import dispatch
from hwautoml.schedules.dispatch import Machine
from hwautoml.schedules.host import resolve_target
from hwautoml.schedules.library import function_key, functions_of, schedule_module
from hwautoml.schedules.lowering import import_onnx, lower
from hwautoml.schedules.vector_unit import vector_unit

HOST = {"kind": "llvm", "mcpu": "native"}


def functions(path: Path, target: tvm.target.Target) -> tvm.IRModule:
    """The network's functions before they are scheduled."""
    return lower(import_onnx(onnx.load(path), path.name), target, path.name)


def assert_candidates_agree(
    path: Path, choose: int, *, num_threads: int = 1, batch: int = 1, tolerance: float = 1e-4,
    mean_tolerance: float = 1.0,
) -> dict[str, str]:
    """Compares candidate number ``choose`` (modulo how many there are) of every function with ONNX Runtime.

    Differences are relative to the largest number of the result. A candidate that does not apply gives way to the
    fixed rule, as it does for users. Returns each function's family; every function must have been scheduled by one.
    """
    target = resolve_target(HOST, num_threads)
    module, machine = functions(path, target), Machine(vector_unit(target), num_threads)
    tilings = {}
    for function in functions_of(module).values():
        found = dispatch.candidates(function, machine)
        if found:
            tilings[function_key(function)] = found[choose % len(found)]
    scheduled, report = schedule_module(module, machine, tilings)
    assert not report.fallbacks, (report, tilings)
    passes = [*pipeline.dataflow_lower_passes(target), *pipeline.finalize_passes(target)]
    executable = tvm.compile(scheduled, target=target, relax_pipeline=tvm.transform.Sequential(passes))
    machine_ = relax.VirtualMachine(executable, tvm.cpu())
    reference = load_backend("onnxruntime").open_model(path)
    shape = [batch if extent == -1 else extent for extent in reference.input_shape]
    x = np.random.default_rng(choose).standard_normal(shape).astype("float32")
    expected, got = reference(x), machine_["main"](tvm.runtime.tensor(x)).numpy()
    assert np.abs(expected - got).max() <= tolerance * np.abs(expected).max()
    assert np.abs(expected - got).mean() <= mean_tolerance * np.abs(expected).max()
    families = {name: dispatch.family_of(function) for name, function in functions_of(module).items()}
    return {name: family.NAME for name, family in families.items() if family is not None}
