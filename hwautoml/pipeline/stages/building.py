"""Stages: export the finalists, compile them, and measure the files themselves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from hwautoml.compilers import load_backend, reference_runtime, shipping_runtimes, traits_of, tuning_for
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


def export_stage(run: RunContext) -> Exported:
    return run.once(Exported, lambda: _export(run), lambda _: _files(run, reference_runtime()))


def _files(run: RunContext, runtime: str) -> list[Path]:
    name = traits_of(runtime).artifact_name()
    paths = (candidate_folder(run, network.architecture) / name for network in trained_networks(run).values())
    return [path for path in paths if path.is_file()]


def _export(run: RunContext) -> Exported:
    networks = trained_networks(run).values()
    for index, network in enumerate(networks):
        run.report("export", index / len(networks), f"ONNX of {network.architecture.id}")
        export_architecture(run, network.architecture, candidate_folder(run, network.architecture) / "model.onnx")
    return Exported()


def compile_stage(run: RunContext, plan: Plan, specialised: Specialised) -> Compiled:
    """Every finalist for every runtime that compiles; the leader first, with the tuning budget, so that the others find
    its records.

    What could not be compiled before an interruption is tried again: the reason may have gone.
    """
    before = run.journal.outcome(Compiled) or Compiled()
    if before.errors:
        run.journal.forget_from(Compiled)
    return run.once(
        Compiled,
        lambda: _compile(run, plan, specialised.leader, before),
        lambda _: [path for runtime in compiling_runtimes(run) for path in _files(run, runtime)],
    )


def _compile(run: RunContext, plan: Plan, leader: str, before: Compiled) -> Compiled:
    networks = sorted(trained_networks(run).values(), key=lambda network: network.architecture.id != leader)
    jobs = [(runtime, network.architecture) for runtime in compiling_runtimes(run) for network in networks]
    left = [job for job in jobs if not before.errors or _key(run, *job) in before.errors]
    compiled: dict[str, CompiledNetwork] = dict(before.networks) if before.errors else {}
    errors: dict[str, str] = {}
    for index, (runtime, architecture) in enumerate(left):
        listen = _listener(run, runtime, index, len(left))
        tune_sec = plan.tune if index == 0 or left[index - 1][0] != runtime else 0.0
        key = _key(run, runtime, architecture)
        try:
            compiled[key] = _compiled(run, runtime, architecture, tune_sec, listen)
        except CompileError as error:
            _log.warning("%s could not compile %s: %s", runtime, architecture.id, error)
            errors[key] = error.message
    return Compiled(compiled, errors)


def _key(run: RunContext, runtime: str, architecture: Architecture) -> str:
    """Of the first that compiles by architecture alone, as when there was one; of others by runtime, too."""
    return architecture.id if runtime == compiling_runtimes(run)[0] else f"{architecture.id} {runtime}"


def compiling_runtimes(run: RunContext) -> list[str]:
    """Those of the run's that do not open the exported file itself."""
    return [runtime for runtime in run.runtimes if not traits_of(runtime).opens_source(run.target)]


def _compiled(
    run: RunContext, runtime: str, architecture: Architecture, tune_sec: float, listen: Callable[[int, int, str], None]
) -> CompiledNetwork:
    folder = candidate_folder(run, architecture)
    tuning = tuning_for(runtime, run.target, run.records_path, budget_sec=tune_sec, seed=run.settings.seed)
    backend = load_backend(runtime)
    model = backend.compile(folder / "model.onnx", folder, run.target, tuning, on_progress=listen)
    return CompiledNetwork(model.functions, model.tuned, model.fallbacks, model.compile_sec, model.tune_sec)


def _listener(run: RunContext, runtime: str, index: int, number: int) -> Callable[[int, int, str], None]:
    def listen(done: int, total: int, text: str) -> None:
        run.report("compile", (index + 0.99 * done / max(total, 1)) / number, f"{runtime}: {text}")

    return listen


def measure_stage(run: RunContext) -> Measured:
    """Every file on its runtime, interleaved, in a process of its own."""
    return run.once(Measured, lambda: _measure(run))


def _measure(run: RunContext) -> Measured:
    networks = trained_networks(run)
    failures: dict[str, str] = {}
    runtimes = [runtime for runtime in run.runtimes if runtime in shipping_runtimes()]
    for index, runtime in enumerate(runtimes):
        run.report("measure", index / len(runtimes), f"{runtime} on {run.target.name}")
        failures |= _measured_on(run, runtime, networks)
    return Measured(failures)


def _measured_on(run: RunContext, runtime: str, networks: dict[str, TrainedNetwork]) -> dict[str, str]:
    """Measurements go to the journal; returns why some could not be made."""
    name = traits_of(runtime).artifact_name()
    paths = {key: candidate_folder(run, n.architecture) / name for key, n in networks.items()}
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
