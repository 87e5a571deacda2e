"""Stage: the latency tables of a run, one per form in which a network may run: a runtime, and a precision."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from hwautoml.compilers import traits_of
from hwautoml.core.form import Form
from hwautoml.core.latency_file import load as load_table
from hwautoml.core.latency_file import save as save_table
from hwautoml.core.latency_table import LatencyTable, Observation, choose_to_measure
from hwautoml.core.measurement import Measurement
from hwautoml.core.sibling_prior import at_level_of, sibling_prior_table
from hwautoml.core.space import Architecture
from hwautoml.errors import CompileError, MeasurementError
from hwautoml.pipeline.runs.job import Job
from hwautoml.pipeline.tables.finding import choose_runtime, ensure_table, find_table, identity_of, records_path
from hwautoml.pipeline.tables.probes import probe_builders
from hwautoml.profilers.reference import reference_architecture

SIBLING_NETWORKS = 8
MIN_SIBLING_CAP_SEC = 60.0  # compiling the networks for a sibling table takes about half a minute
MIN_INT8_CAP_SEC = 120.0  # quantising them too takes twice as long

_log = logging.getLogger(__name__)


def profile_stage(job: Job) -> None:
    """The table of the run's target, kept in the run folder too; and those of further runtimes and of int8, from a
    file where there is one, else from a few networks if there is time enough."""
    runtime = job.runtimes[0] if job.is_remote else choose_runtime(job.target, job.settings.runtime)
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
                board=job.board,
            )
            save_table(table, kept_table_path(job, table.form))
            if table.origin == "measured":
                _add_further_tables(job, table)
            payload.update(runtime=runtime, origin=table.origin, num_entries=len(table.entries))
    job.tables = _kept_tables(job, runtime)


def kept_table_path(job: Job, form: str) -> Path:
    return job.folder / "tables" / f"{form}.json"


def _kept_tables(job: Job, runtime: str) -> dict[str, LatencyTable]:
    """By form, that of ``runtime`` in fp32 first; of int8 alone where nothing else may ship."""
    runtimes = dict.fromkeys([runtime, *job.target.runtimes])
    forms = [Form(r, precision).name for precision in ("fp32", "int8") for r in runtimes]
    tables = {form: load_table(path) for form in forms if (path := kept_table_path(job, form)).is_file()}
    only = {form: table for form, table in tables.items() if table.precision == job.settings.precision}
    return only or tables


def _add_further_tables(job: Job, first: LatencyTable) -> None:
    known = {first.form: first}
    for runtime, precision, has_time in _further_forms(job, first.runtime):
        sibling = known.get(runtime, first)  # the same runtime's in fp32, where there is one
        try:
            kept = kept_table_path(job, Form(runtime, precision).name)  # of a session that was interrupted
            table = load_table(kept) if kept.is_file() else _found(job, runtime, precision)
            if table is None and has_time:
                table = sibling_table(job, sibling, runtime, precision)
        except (CompileError, MeasurementError) as error:
            _log.warning("no latency table of %s, which is left out: %s", Form(runtime, precision).name, error.message)
            continue
        if table is not None:
            known[table.form] = table
            save_table(table, kept_table_path(job, table.form))


def _further_forms(job: Job, first: str) -> Iterator[tuple[str, str, bool]]:
    """(runtime, precision, whether there is time to measure its table)."""
    wanted, cap_sec = job.settings.precision, job.profile_cap_sec
    others = [runtime for runtime in job.runtimes if runtime != first]
    yield from ((runtime, "fp32", cap_sec >= MIN_SIBLING_CAP_SEC) for runtime in others)
    if wanted == "fp32" or "int8" not in job.target.precisions:
        return
    for runtime in [r for r in (first, *others) if traits_of(r).runs("int8", job.target)]:
        is_asked_for = wanted == "int8" and runtime == first
        yield runtime, "int8", is_asked_for or cap_sec >= MIN_INT8_CAP_SEC


def _found(job: Job, runtime: str, precision: str) -> LatencyTable | None:
    identity = identity_of(job.target, runtime, job.space, precision=precision)
    machine = str(job.device(runtime).conditions()["fingerprint"]) if job.is_remote else None
    return find_table(job.target, identity, job.profiles_dir, machine=machine, is_remote=job.is_remote)


def sibling_table(job: Job, known: LatencyTable, runtime: str, precision: str = "fp32") -> LatencyTable:
    """A table for another form on the same device from a few whole networks, with ``known`` as its sibling.

    Raises:
        CompileError: the reference network cannot be built.
        MeasurementError: nothing could be measured.
    """
    form = Form(runtime, precision).name
    prior = sibling_prior_table(
        [known],
        cost=job.space.cost,
        target=known.target,
        runtime=runtime,
        num_threads=known.num_threads,
        batch=known.batch,
        precision=precision,
    )
    candidates = [job.space.sample(np.random.default_rng(job.settings.seed + i)) for i in range(64)]
    layers = [job.space.layers(a) for a in candidates]
    chosen = [candidates[i] for i in choose_to_measure(prior, layers, SIBLING_NETWORKS)]
    records = records_path(job.target, job.profiles_dir)
    builders = probe_builders(job.space, job.target, runtime, records, precision=precision)
    paths: dict[Architecture, Path] = {}
    for index, architecture in enumerate(chosen):
        job.report("profile", index / len(chosen), f"{form}: building network {index + 1} of {len(chosen)}")
        try:
            paths[architecture] = builders.network(architecture, job.folder / "probes" / f"{architecture.id}.{form}")
        except CompileError as error:
            _log.warning("%s cannot be built for %s and is left out: %s", architecture.id, form, error)
    # The same reference as in every later measurement: tables are kept at the speed at which it was timed.
    reference = builders.network(reference_architecture(job.space), job.folder / "probes" / f"reference.{form}")
    before = _speed_of(job, known)
    results = job.device(runtime).measure(list(paths.values()), reference)
    speed = math.sqrt(before * _speed_of(job, known))
    measured = [(a, r) for a, r in zip(paths, results, strict=True) if isinstance(r, Measurement)]
    if not measured:
        raise MeasurementError(f"none of {len(chosen)} networks could be measured as {form}")
    observations = [
        Observation(a.id, prior.counts(job.space.layers(a)), speed * r.median_ms, speed * r.deviation_ms)
        for a, r in measured
    ]
    table = at_level_of(prior, observations)
    conditions = dict(measured[0][1].conditions)
    if isinstance(timed := conditions.get("reference_median_ms"), float):
        conditions["reference_median_ms"] = speed * timed
    conditions |= {"sibling": known.form, "level": table.conditions["level"]}
    return replace(table, conditions=conditions).with_observations(observations)


def _speed_of(job: Job, table: LatencyTable) -> float:
    """The machine's speed when ``table`` was made over its speed now, by the reference network of that table: what
    times of now are multiplied by, since forms are only compared fairly at one speed. 1 where it isn't known."""
    then = table.conditions.get("reference_median_ms")
    if not isinstance(then, float):
        return 1.0
    builders = probe_builders(
        job.space, job.target, table.runtime, records_path(job.target, job.profiles_dir), precision=table.precision
    )
    path = job.folder / "probes" / f"reference.{table.form}"
    now = job.device(table.runtime).measure([builders.network(reference_architecture(job.space), path)])[0]
    if not isinstance(now, Measurement):
        _log.warning("the speed at which %s was measured is unknown now: %s", table.form, now.reason)
        return 1.0
    return then / now.median_ms
