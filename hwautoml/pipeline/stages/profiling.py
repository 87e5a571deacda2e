"""Stage: the latency tables of a run, one per form in which a network may run: a runtime, and a precision."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hwautoml.compilers import traits_of
from hwautoml.core.active_selection import choose_to_measure
from hwautoml.core.form import Form
from hwautoml.core.latency_file import load as load_table
from hwautoml.core.latency_file import save as save_table
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.measurement import Measurement
from hwautoml.core.observation import Observation
from hwautoml.core.sibling_prior import at_level_of, sibling_prior_table
from hwautoml.core.space import Architecture
from hwautoml.errors import CompileError, MeasurementError
from hwautoml.pipeline.runs.context import RunContext
from hwautoml.pipeline.runs.outcomes import Profiled
from hwautoml.pipeline.tables.finding import choose_runtime, ensure_table, find_table, identity_of
from hwautoml.pipeline.tables.probes import probe_builders
from hwautoml.pipeline.tables.shipped_records import take_over_shipped_records
from hwautoml.profilers.layer_profiler import Builders
from hwautoml.profilers.reference import reference_architecture

SIBLING_NETWORKS = 8
MIN_SIBLING_CAP_SEC = 60.0  # compiling the networks for a sibling table takes about half a minute
MIN_INT8_CAP_SEC = 120.0  # quantising them too takes twice as long

_log = logging.getLogger(__name__)


def profile_stage(run: RunContext, budget_sec: float) -> dict[str, LatencyTable]:
    """The table of the run's target, kept in the run folder too; and those of further runtimes and of int8, from a
    file where there is one, else from a few networks if there is time enough. By form, see ``kept_tables``."""
    take_over_shipped_records(run.target.name, run.library)
    runtime = _first_runtime(run)
    run.once(Profiled, lambda: _profile(run, runtime, budget_sec))
    return kept_tables(run)


def kept_table_path(run: RunContext, form: str) -> Path:
    return run.folder / "tables" / f"{form}.json"


def kept_tables(run: RunContext) -> dict[str, LatencyTable]:
    """By form, that of the first runtime in fp32 first; of int8 alone where nothing else may ship."""
    runtimes = dict.fromkeys([_first_runtime(run), *run.target.runtimes, *run.runtimes])
    forms = [Form(runtime, precision).name for precision in ("fp32", "int8") for runtime in runtimes]
    tables = {form: load_table(path) for form in forms if (path := kept_table_path(run, form)).is_file()}
    only = {form: table for form, table in tables.items() if table.precision == run.settings.precision}
    return only or tables


def origin_of(tables: Mapping[str, LatencyTable]) -> str:
    """What is to be said of the latencies that these tables give: "predicted", or "estimated" from a datasheet."""
    return "predicted" if all(table.origin == "measured" for table in tables.values()) else "estimated"


def _first_runtime(run: RunContext) -> str:
    return run.runtimes[0] if run.board.is_remote else choose_runtime(run.target, run.settings.runtime)


def _profile(run: RunContext, runtime: str, budget_sec: float) -> Profiled:
    table = ensure_table(
        run.target,
        Form(runtime),
        run.space,
        run.library,
        budget_sec=budget_sec,
        board=run.board,
        seed=run.settings.seed,
        on_progress=lambda progress: run.report(progress.stage, progress.share, progress.text),
    )
    save_table(table, kept_table_path(run, table.form))
    if table.origin == "measured":
        _add_further_tables(run, table, budget_sec)
    return Profiled(runtime, table.origin, len(table.entries))


def _add_further_tables(run: RunContext, first: LatencyTable, budget_sec: float) -> None:
    known = {first.form: first}
    for form, has_time in _further_forms(run, first.runtime, budget_sec):
        sibling = known.get(form.runtime, first)  # the same runtime's in fp32, where there is one
        try:
            kept = kept_table_path(run, form.name)  # of a session that was interrupted
            table = load_table(kept) if kept.is_file() else _found(run, form)
            if table is None and has_time:
                table = sibling_table(run, sibling, form)
        except (CompileError, MeasurementError) as error:
            _log.warning("no latency table of %s, which is left out: %s", form, error.message)
            continue
        if table is not None:
            known[table.form] = table
            save_table(table, kept_table_path(run, table.form))


def _further_forms(run: RunContext, first: str, budget_sec: float) -> Iterator[tuple[Form, bool]]:
    """(form, whether there is time to measure its table)."""
    wanted = run.settings.precision
    others = [runtime for runtime in run.runtimes if runtime != first]
    yield from ((Form(runtime), budget_sec >= MIN_SIBLING_CAP_SEC) for runtime in others)
    if wanted == "fp32" or "int8" not in run.target.precisions:
        return
    for runtime in [r for r in (first, *others) if traits_of(r).runs("int8", run.target)]:
        is_asked_for = wanted == "int8" and runtime == first
        yield Form(runtime, "int8"), is_asked_for or budget_sec >= MIN_INT8_CAP_SEC


def _found(run: RunContext, form: Form) -> LatencyTable | None:
    machine = str(run.devices(form.runtime).conditions()["fingerprint"]) if run.board.is_remote else None
    return find_table(
        run.target, identity_of(run.target, form, run.space), run.library, board=run.board, machine=machine
    )


@dataclass(frozen=True)
class _Probes:
    """Networks of one form: random members, and the reference that tells at what speed the machine is."""

    run: RunContext
    form: Form
    builders: Builders

    @classmethod
    def of(cls, run: RunContext, form: Form) -> _Probes:
        return cls(
            run, form, probe_builders(run.space, run.target, form.runtime, run.records_path, precision=form.precision)
        )

    @property
    def folder(self) -> Path:
        return self.run.folder / "probes"

    def reference(self) -> Path:
        """The same in every measurement: tables are kept at the speed at which it was timed.

        Raises CompileError where it cannot be built.
        """
        architecture = reference_architecture(self.run.space)
        return self.builders.network(architecture, self.folder / f"reference.{self.form.name}")

    def build(self, architectures: list[Architecture]) -> dict[Architecture, Path]:
        """Those that can be built."""
        paths: dict[Architecture, Path] = {}
        for index, architecture in enumerate(architectures):
            text = f"{self.form.name}: building network {index + 1} of {len(architectures)}"
            self.run.report("profile", index / len(architectures), text)
            try:
                path = self.folder / f"{architecture.id}.{self.form.name}"
                paths[architecture] = self.builders.network(architecture, path)
            except CompileError as error:
                _log.warning("%s cannot be built for %s and is left out: %s", architecture.id, self.form, error)
        return paths


def sibling_table(run: RunContext, known: LatencyTable, form: Form) -> LatencyTable:
    """A table for another form on the same device from a few whole networks, with ``known`` as its sibling.

    Raises:
        CompileError: the reference network cannot be built.
        MeasurementError: nothing could be measured.
    """
    identity = replace(known.identity, runtime=form.runtime, precision=form.precision)
    prior = sibling_prior_table([known], identity, cost=run.space.cost)
    candidates = [run.space.sample(np.random.default_rng(run.settings.seed + i)) for i in range(64)]
    layers = [run.space.layers(a) for a in candidates]
    chosen = [candidates[i] for i in choose_to_measure(prior, layers, SIBLING_NETWORKS)]
    probes = _Probes.of(run, form)
    paths, reference = probes.build(chosen), probes.reference()
    before = _speed_of(run, known)
    results = run.devices(form.runtime).measure(list(paths.values()), reference)
    speed = math.sqrt(before * _speed_of(run, known))
    measured = {a: r for a, r in zip(paths, results, strict=True) if isinstance(r, Measurement)}
    if not measured:
        raise MeasurementError(f"none of {len(chosen)} networks could be measured as {form}")
    observations = [
        Observation(a.id, prior.counts(run.space.layers(a)), speed * m.median_ms, speed * m.deviation_ms)
        for a, m in measured.items()
    ]
    table = at_level_of(prior, observations)
    conditions = dict(next(iter(measured.values())).conditions)
    if isinstance(timed := conditions.get("reference_median_ms"), float):
        conditions["reference_median_ms"] = speed * timed
    conditions |= {"sibling": known.form, "level": table.conditions["level"]}
    return replace(table, conditions=conditions).with_observations(observations)


def _speed_of(run: RunContext, table: LatencyTable) -> float:
    """The machine's speed when ``table`` was made over its speed now, by the reference network of that table: what
    times of now are multiplied by, since forms are only compared fairly at one speed. 1 where it isn't known."""
    then = table.conditions.get("reference_median_ms")
    if not isinstance(then, float):
        return 1.0
    reference = _Probes.of(run, Form(table.runtime, table.precision)).reference()
    now = run.devices(table.runtime).measure([reference])[0]
    if not isinstance(now, Measurement):
        _log.warning("the speed at which %s was measured is unknown now: %s", table.form, now.reason)
        return 1.0
    return then / now.median_ms
