"""Stages: export the finalists, compile them, and measure the files themselves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from hwautoml.compilers import load_backend
from hwautoml.core.form import Form
from hwautoml.core.plan import Plan
from hwautoml.core.space import Architecture
from hwautoml.devices.protocol import MeasureFailure
from hwautoml.errors import CompileError
from hwautoml.pipeline.runs.candidates import (
    FINAL_PROTOCOL,
    TrainedNetwork,
    candidate_folder,
    export_architecture,
    trained_networks,
)
from hwautoml.pipeline.runs.context import RunContext
from hwautoml.pipeline.runs.journal import FINE_TUNED
from hwautoml.pipeline.runs.outcomes import Compiled, CompiledNetwork, Exported, Measured, Specialised

_log = logging.getLogger(__name__)

FILE_OF = {"onnxruntime": "model.onnx", "tvm": "model.so"}


def export_stage(run: RunContext) -> Exported:
    return run.once(Exported, lambda: _export(run), lambda _: _files(run, FILE_OF["onnxruntime"]))


def _files(run: RunContext, name: str) -> list[Path]:
    paths = (candidate_folder(run, network.architecture) / name for network in trained_networks(run).values())
    return [path for path in paths if path.is_file()]


def _export(run: RunContext) -> Exported:
    networks = trained_networks(run).values()
    for index, network in enumerate(networks):
        run.report("export", index / len(networks), f"ONNX of {network.architecture.id}")
        export_architecture(run, network.architecture, candidate_folder(run, network.architecture) / "model.onnx")
    return Exported()


def compile_stage(run: RunContext, plan: Plan, specialised: Specialised) -> Compiled:
    """TVM for every finalist; the leader first, with the tuning budget, so that the others find its records.

    What could not be compiled before an interruption is tried again: the reason may have gone.
    """
    before = run.journal.outcome(Compiled) or Compiled()
    if before.errors:
        run.journal.forget_from(Compiled)
    return run.once(
        Compiled, lambda: _compile(run, plan, specialised.leader, before), lambda _: _files(run, FILE_OF["tvm"])
    )


def _compile(run: RunContext, plan: Plan, leader: str, before: Compiled) -> Compiled:
    if "tvm" not in run.runtimes:
        return Compiled()
    left = [network for key, network in trained_networks(run).items() if key in before.errors or not before.errors]
    networks = sorted(left, key=lambda network: network.architecture.id != leader)
    compiled: dict[str, CompiledNetwork] = dict(before.networks) if before.errors else {}
    errors: dict[str, str] = {}
    for index, network in enumerate(networks):
        listen = _listener(run, index, len(networks))
        tune_sec = plan.tune if index == 0 else 0.0
        try:
            compiled[network.architecture.id] = _compiled(run, network.architecture, tune_sec, listen)
        except CompileError as error:
            _log.warning("TVM could not compile %s: %s", network.architecture.id, error)
            errors[network.architecture.id] = error.message
    return Compiled(compiled, errors)


def _compiled(
    run: RunContext, architecture: Architecture, tune_sec: float, listen: Callable[[int, int, str], None]
) -> CompiledNetwork:
    folder = candidate_folder(run, architecture)
    model = load_backend("tvm").compile_model(
        folder / "model.onnx",
        folder,
        tvm_target=run.target.tvm,
        num_threads=run.target.num_threads,
        tune_budget_sec=tune_sec,
        records_path=run.records_path,
        on_progress=listen,
        seed=run.settings.seed,
    )
    return CompiledNetwork(model.functions, model.tuned, model.fallbacks, model.compile_sec, model.tune_sec)


def _listener(run: RunContext, index: int, number: int) -> Callable[[int, int, str], None]:
    def listen(done: int, total: int, text: str) -> None:
        run.report("compile", (index + 0.99 * done / max(total, 1)) / number, f"TVM: {text}")

    return listen


def measure_stage(run: RunContext) -> Measured:
    """Every file on its runtime, interleaved, in a process of its own."""
    return run.once(Measured, lambda: _measure(run))


def _measure(run: RunContext) -> Measured:
    networks = trained_networks(run)
    failures: dict[str, str] = {}
    runtimes = [runtime for runtime in run.runtimes if runtime in FILE_OF]
    for index, runtime in enumerate(runtimes):
        run.report("measure", index / len(runtimes), f"{runtime} on {run.target.name}")
        failures |= _measured_on(run, runtime, networks)
    return Measured(failures)


def _measured_on(run: RunContext, runtime: str, networks: dict[str, TrainedNetwork]) -> dict[str, str]:
    """Measurements go to the journal; returns why some could not be made."""
    paths = {key: candidate_folder(run, n.architecture) / FILE_OF[runtime] for key, n in networks.items()}
    paths = {key: path for key, path in paths.items() if path.is_file()}
    if not paths:
        return {}
    files, failures = list(paths.values()), {}
    results = run.devices(runtime).measure(files, files[0], FINAL_PROTOCOL)
    for key, result in zip(paths, results, strict=True):
        if isinstance(result, MeasureFailure):
            failures[f"{key} {runtime}"] = result.reason
        else:
            run.journal.add_measurement(key, run.target.name, Form(runtime), result, weights=FINE_TUNED)
    return failures
