"""Verb and stage: a latency table is found where a valid one exists, and measured where not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwautoml.compilers import load_backend
from hwautoml.core.latency_file import check_matches
from hwautoml.core.latency_file import load as load_table
from hwautoml.core.latency_file import save as save_table
from hwautoml.core.latency_prior import roofline_table
from hwautoml.core.latency_table import Entry, LatencyTable, Observation, choose_to_measure
from hwautoml.core.measurement import Measurement
from hwautoml.core.progress import OnProgress, Progress, silent
from hwautoml.core.resources import package_folder, profile_folders, target_folders, user_config_folder
from hwautoml.core.space import Architecture
from hwautoml.core.target import Target, load_target
from hwautoml.devices.local import LocalDevice
from hwautoml.devices.machine import fingerprint
from hwautoml.devices.protocol import MeasureProtocol
from hwautoml.errors import (
    CompileError,
    MeasurementError,
    MissingDependencyError,
    RunFolderError,
    TargetUnavailableError,
    UnknownNameError,
)
from hwautoml.pipeline.artifacts import probe_builders, slug
from hwautoml.profilers.assembly import ProfileSetting
from hwautoml.profilers.layer_profiler import ProfileOptions, profile_layers, reference_architecture
from hwautoml.spaces.mobile import MobileSpace
from hwautoml.store.files import read_json, write_json

if TYPE_CHECKING:
    from hwautoml.pipeline.job import Job

__all__ = ["device_for", "ensure_table", "profile", "profile_stage", "save_table", "usable_runtimes"]

RECORDS_FILE = "tvm_records.json"
PRECISION, BATCH = "fp32", 1
NETWORKS_SHARE = 0.4  # of the profiling budget is for whole networks
MAX_NETWORKS = 24
SIBLING_NETWORKS = 8
SIBLING_DEVIATION = 0.2
MIN_SIBLING_CAP_SEC = 60.0  # compiling the networks for a sibling table takes about half a minute

_log = logging.getLogger(__name__)


def profile(
    target: str = "cpu",
    *,
    image_size: int = 32,
    channels: int = 3,
    runtime: str = "auto",
    budget_sec: float = 300.0,
    seed: int = 0,
    targets_dir: Path | None = None,
    profiles_dir: Path | None = None,
    on_progress: OnProgress = silent,
) -> tuple[LatencyTable, Path]:
    """Measure the latency table of the ``mobile`` space on a target; returns it and its file.

    Interrupted, it goes on where it was; finished, a larger budget adds to it.

    Raises:
        TargetUnavailableError: code cannot be run on the target from this machine.
    """
    found = load_target(target, target_folders(targets_dir))
    require_local(found)
    chosen = choose_runtime(found, runtime)
    space = MobileSpace(image_size, channels, num_classes=10)
    path = table_path(found, chosen, space, profiles_dir)
    return _measure_table(space, found, chosen, path, budget_sec, seed, partial(_listen, on_progress)), path


def profile_stage(job: Job) -> None:
    """The table of the run's target, kept in the run folder too; with time enough, one per further runtime."""
    runtime = choose_runtime(job.target, job.settings.runtime)
    if job.store.stage("profile") is None:
        with job.timed_stage("profile") as payload:
            table = ensure_table(
                job.target,
                runtime,
                job.space,
                budget_sec=job.profile_cap_sec,
                seed=job.settings.seed,
                profiles_dir=job.profiles_dir,
                on_progress=job.on_progress,
            )
            save_table(table, kept_table_path(job, runtime))
            others = [r for r in job.runtimes if r != runtime]
            for other in others if job.profile_cap_sec >= MIN_SIBLING_CAP_SEC and table.origin == "measured" else []:
                save_table(sibling_table(job, table, other), kept_table_path(job, other))
            payload.update(runtime=runtime, origin=table.origin, num_entries=len(table.entries))
    for known in dict.fromkeys([runtime, *job.target.runtimes]):
        if kept_table_path(job, known).is_file():
            job.tables[known] = load_table(kept_table_path(job, known))


def kept_table_path(job: Job, runtime: str) -> Path:
    return job.folder / "tables" / f"{runtime}.json"


def sibling_table(job: Job, known: LatencyTable, runtime: str) -> LatencyTable:
    """A table for another runtime of the same device from a few whole networks.

    The known table's entries, brought to the other runtime's level, are the prior; its layers' ratios to the
    level are uncertain by ``SIBLING_DEVIATION`` until the measured networks say more.
    """
    candidates = [job.space.sample(np.random.default_rng(job.settings.seed + i)) for i in range(64)]
    layers = [job.space.layers(a) for a in candidates]
    chosen = [candidates[i] for i in choose_to_measure(known, layers, SIBLING_NETWORKS)]
    builders = probe_builders(job.space, job.target, runtime, records_path(job.target, job.profiles_dir))
    paths: dict[Architecture, Path] = {}
    for index, architecture in enumerate(chosen):
        job.report("profile", index / len(chosen), f"{runtime}: building network {index + 1} of {len(chosen)}")
        try:
            paths[architecture] = builders.network(architecture, job.folder / "probes" / f"{architecture.id}.{runtime}")
        except CompileError as error:
            _log.warning("%s cannot be built for %s and is left out: %s", architecture.id, runtime, error)
    # The same reference as in every later measurement: tables are kept at the speed at which it was timed.
    reference = builders.network(reference_architecture(job.space), job.folder / "probes" / f"reference.{runtime}")
    results = job.device(runtime).measure(list(paths.values()), reference)
    measured = [(a, r) for a, r in zip(paths, results, strict=True) if isinstance(r, Measurement)]
    if not measured:
        raise MeasurementError(f"none of {len(chosen)} networks could be measured on {runtime}")
    ratio = float(np.median([r.median_ms / known.predict(job.space.layers(a)).mean_ms for a, r in measured]))
    table = replace(
        known,
        runtime=runtime,
        observations=(),
        hyperparameters=None,
        overhead=_scaled(known.overhead, ratio),
        entries={key: _scaled(entry, ratio) for key, entry in known.entries.items()},
        conditions={**measured[0][1].conditions, "sibling": known.runtime, "level": ratio},
    )
    return table.with_observations(
        [Observation(a.id, table.counts(job.space.layers(a)), r.median_ms, r.deviation_ms) for a, r in measured]
    )


def _scaled(entry: Entry, ratio: float) -> Entry:
    mean_ms = ratio * entry.mean_ms
    return Entry(mean_ms, float(np.hypot(ratio * entry.deviation_ms, SIBLING_DEVIATION * mean_ms)), "inferred")


def ensure_table(
    target: Target,
    runtime: str,
    space: MobileSpace,
    *,
    budget_sec: float,
    seed: int = 0,
    profiles_dir: Path | None = None,
    on_progress: OnProgress = silent,
) -> LatencyTable:
    """A valid table from a file; else measured here; else, with no access to the device, estimated."""
    table = _find_table(target, runtime, space, profiles_dir)
    if table is not None and not _is_worth_more_time(table, budget_sec):
        return table
    if unavailable_reason(target) is not None:
        _log.warning("%s cannot be measured from here: its latencies are estimated from the datasheet", target.name)
        costs = [(layer, space.cost(layer)) for layer in space.all_layers()]
        return roofline_table(target, costs, space=space.family, runtime=runtime, batch=BATCH, precision=PRECISION)
    path = table_path(target, runtime, space, profiles_dir)
    return _measure_table(space, target, runtime, path, budget_sec, seed, partial(_listen, on_progress))


def _is_worth_more_time(table: LatencyTable, budget_sec: float) -> bool:
    """Layers were left out for lack of time, and there is clearly more of it now."""
    left_out, spent = table.conditions.get("num_layers_inferred"), table.conditions.get("seconds")
    return isinstance(left_out, int) and left_out > 0 and isinstance(spent, float) and spent < 0.7 * budget_sec


def device_for(target: Target, runtime: str) -> LocalDevice:
    """Raises TargetUnavailableError: only targets of this machine can be measured so far."""
    require_local(target)
    return LocalDevice(runtime, num_threads=target.num_threads)


def unavailable_reason(target: Target) -> str | None:
    """Why code cannot be run on the target from this machine; None where it can."""
    if target.connection != "local":
        return f"{target.name} is reached over the network, and remote devices are not supported yet"
    if target.kind == "gpu":
        return f"{target.name} needs a runtime that executes on CUDA devices, and none here does yet"
    return None


def require_local(target: Target) -> None:
    reason = unavailable_reason(target)
    if reason is not None:
        raise TargetUnavailableError(
            reason, fix=f"hwautoml search --run RUN --target {target.name} works with estimated latencies"
        )


def usable_runtimes(target: Target) -> tuple[str, ...]:
    """The target's runtimes that are installed here and that we have a backend for, in its order of preference."""
    from hwautoml.compilers import backend_names

    return tuple(r for r in target.runtimes if r in backend_names() and load_backend(r).unavailable_reason() is None)


def choose_runtime(target: Target, wanted: str) -> str:
    """``auto`` is the target's first usable one.

    Raises:
        MissingDependencyError: it is not installed.
    """
    usable = usable_runtimes(target)
    if wanted != "auto" and wanted not in target.runtimes:
        raise UnknownNameError(f"runtime of target {target.name}", wanted, target.runtimes)
    if wanted == "auto":
        if not usable and target.connection == "local":
            raise MissingDependencyError(
                f"none of {target.name}'s runtimes {target.runtimes} is usable: hwautoml doctor"
            )
        return usable[0] if usable else target.runtimes[0]
    reason = load_backend(wanted).unavailable_reason()
    if reason is not None:
        raise MissingDependencyError(f"runtime {wanted!r} is not usable: {reason}")
    return wanted


def table_folder(profiles_dir: Path | None) -> Path:
    """Where new tables are written."""
    return profiles_dir if profiles_dir is not None else user_config_folder() / "profiles"


def table_path(target: Target, runtime: str, space: MobileSpace, profiles_dir: Path | None) -> Path:
    return table_folder(profiles_dir) / target.name / _file_name(target, runtime, space)


def records_path(target: Target, profiles_dir: Path | None) -> Path:
    """TVM tuning records: they belong to a device, and every later compilation finds them.

    Where there are none yet, those that are shipped are the first.
    """
    path = table_folder(profiles_dir) / target.name / RECORDS_FILE
    shipped = package_folder("profiles") / target.name / RECORDS_FILE
    if shipped.is_file() and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, read_json(shipped))
    return path


def _file_name(target: Target, runtime: str, space: MobileSpace) -> str:
    return f"{runtime}-{slug(space.family)}-t{target.num_threads}-b{BATCH}-{PRECISION}.json"


def _find_table(target: Target, runtime: str, space: MobileSpace, profiles_dir: Path | None) -> LatencyTable | None:
    """The first valid one; a table that does not fit is passed over and named in the log."""
    version = _version(runtime) if target.connection == "local" else None
    folders = [table_folder(profiles_dir), *profile_folders(profiles_dir)]
    for path in dict.fromkeys(folder / target.name / _file_name(target, runtime, space) for folder in folders):
        if not path.is_file():
            continue
        try:
            table = load_table(path)
            check_matches(
                table,
                target=target.name,
                runtime=runtime,
                runtime_version=version,
                num_threads=target.num_threads,
                batch=BATCH,
                precision=PRECISION,
                space=space.family,
            )
        except RunFolderError as error:
            _log.warning("%s is not used: %s", path, error.message)
            continue
        here = fingerprint(runtime, version or "")
        if target.connection == "local" and table.conditions.get("fingerprint") != here:
            _log.warning("%s is not used: it was measured on another machine", path)
            continue
        return table
    return None


def _measure_table(
    space: MobileSpace,
    target: Target,
    runtime: str,
    path: Path,
    budget_sec: float,
    seed: int,
    listen: Callable[[int, int, str], None],
) -> LatencyTable:
    version = _version(runtime)
    machine = fingerprint(runtime, version)
    setting = ProfileSetting(target.name, runtime, version, target.num_threads, BATCH, PRECISION, space.family, machine)
    options = ProfileOptions(
        layer_budget_sec=(1 - NETWORKS_SHARE) * budget_sec,
        network_budget_sec=NETWORKS_SHARE * budget_sec,
        num_networks=MAX_NETWORKS,
        num_holdout=4,
        seed=seed,
    )
    quick, full = MeasureProtocol.for_layers(seed), MeasureProtocol(seed=seed)
    builders = probe_builders(space, target, runtime, path.parent / "tvm_records.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    with device_for(target, runtime) as device:
        return profile_layers(
            space,
            setting,
            path,
            builders=builders,
            options=options,
            on_progress=listen,
            measure=lambda paths, reference=None: device.measure(paths, reference, quick),
            measure_networks=lambda paths, reference=None: device.measure(paths, reference, full),
        )


def _version(runtime: str) -> str:
    return load_backend(runtime).version()


def _listen(on_progress: OnProgress, done: int, total: int, text: str) -> None:
    on_progress(Progress("profile", min(done / total, 0.999), f"{text}: {done} of at most {total} measured"))
