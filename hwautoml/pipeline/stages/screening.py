"""Which candidates go on: those that meet the limit when they are measured, before anything is spent on training them.

Latency does not depend on weights, so a candidate is measured with random ones, in the form (runtime and precision)
in which it is predicted to be fastest. That int8 keeps its accuracy can only be known after training; so among those
that go on there is one that needs no int8, as long as there is any.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hwautoml.core.latency_file import save as save_table
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.measurement import Measurement
from hwautoml.core.observation import Observation
from hwautoml.core.space import Architecture
from hwautoml.devices.protocol import MeasureProtocol
from hwautoml.errors import CompileError, LimitNotMetError
from hwautoml.pipeline.runs.job import Job
from hwautoml.pipeline.runs.utilisation import lowest_utilisation, utilisation
from hwautoml.pipeline.stages.profiling import kept_table_path
from hwautoml.pipeline.stages.searching import SHARED_WEIGHTS, fastest_forms, promise, trained_enough
from hwautoml.pipeline.tables.probes import probe_builders
from hwautoml.profilers.reference import reference_architecture
from hwautoml.searchers.surrogate import smoothed
from hwautoml.store.table_library import TableLibrary

SCREEN_SIZE = 8
MAX_SCREENS = 3
HEADROOM = 0.95  # of the limit when candidates are screened: a machine's speed drifts until the files are measured

_log = logging.getLogger(__name__)


def entrants(job: Job) -> list[Architecture]:
    """The most promising candidates that meet the limit by measurement, best first; see also ``needing_int8``.

    Twice as many as finalists while the supernet's scores say little: their own training tells more.

    Raises:
        LimitNotMetError: no candidate met the limit when it was measured.
    """
    stored = job.store.setting("entrants")
    if stored is not None:
        return [job.space.architecture(values) for values in stored]
    scores = _scores(job)
    measured: dict[Architecture, Measurement] = {}
    untried = dict(scores)
    number_wanted = job.plan.num_finalists * (1 if trained_enough(job) == 1 else 2)
    for number in range(MAX_SCREENS):
        screened = _next_to_screen(job, untried, job.tables, is_last=number == MAX_SCREENS - 1)
        if not screened:
            break
        measured |= _screen(job, screened, job.tables)
        untried = {a: score for a, score in untried.items() if a not in screened}
        passed = _passing(job, measured, 1.0)
        if passed:
            best = _diverse(
                sorted(_passing(job, measured, HEADROOM) or passed, key=lambda a: -scores[a]), number_wanted
            )
            best = _with_one_in_fp32(job, scores, best)
            job.store.set_setting("entrants", [a.as_dict for a in best])
            return best
    raise _limit_not_met(job, measured)


def needing_int8(job: Job) -> set[str]:
    """Ids of the entrants that meet the limit in int8 alone, as far as is known."""
    return set(job.store.setting("needing_int8", []))


def _scores(job: Job) -> dict[Architecture, float]:
    scored = job.store.evaluations(job.space, weights=SHARED_WEIGHTS, split="val")
    smooth = smoothed(job.space, {e.architecture: e.accuracy for e in scored})
    return dict(zip(smooth, promise(job, np.array(list(smooth.values())), list(smooth)), strict=True))


def _passing(job: Job, measured: Mapping[Architecture, Measurement], share: float) -> list[Architecture]:
    """With their whole interval within a share of the limit."""
    return [a for a, m in measured.items() if m.interval_ms[1] <= share * job.settings.latency_ms]


def _with_one_in_fp32(job: Job, scores: dict[Architecture, float], best: list[Architecture]) -> list[Architecture]:
    """The entrants, with one more that needs no int8 where all of them may; writes down which do."""
    tables = {form: table for form, table in job.tables.items() if table.precision == "fp32"}
    if not tables or len(tables) == len(job.tables):
        return best
    again = _screen(job, _within(job, best, tables), tables)
    passed = _passing(job, again, HEADROOM)
    if not passed:
        others = _next_to_screen(job, {a: s for a, s in scores.items() if a not in best}, tables, is_last=False)
        passed = _passing(job, _screen(job, others[: SCREEN_SIZE // 2], tables), HEADROOM)
        passed = sorted(passed, key=lambda a: -scores[a])[:1]
    if not passed:
        _log.warning("no candidate is known to meet the limit in fp32: all depends on int8's accuracy")
    job.store.set_setting("needing_int8", [a.id for a in best if a not in passed])
    return [*best, *(a for a in passed if a not in best)]


def _within(job: Job, architectures: Sequence[Architecture], tables: Mapping[str, LatencyTable]) -> list[Architecture]:
    """Those predicted to meet the limit with some room, in their order."""
    _, means, _ = fastest_forms(job.space, tables, architectures)
    return [a for a, ms in zip(architectures, means, strict=True) if ms <= HEADROOM * job.settings.latency_ms]


def _next_to_screen(
    job: Job, scores: dict[Architecture, float], tables: Mapping[str, LatencyTable], *, is_last: bool
) -> list[Architecture]:
    """The most promising of those predicted to meet the limit; the prediction learns from every screening.

    Of those that can be trained in the time left, and while scores cannot choose between small and large members, of
    those that are no smaller than they have to be. The last time, and when none is predicted to meet the limit, the
    fastest: if anything scored meets it, it is found.
    """
    if not scores:
        return []
    architectures = list(scores)
    within = _within(job, architectures, tables)
    if within and not is_last:
        used, lowest = utilisation(job, within, tables), lowest_utilisation(trained_enough(job))
        if used.min() > 1:  # none can be trained well: those that come nearest
            return [within[i] for i in np.argsort(used)[:SCREEN_SIZE]]
        trainable = [a for a, share in zip(within, used, strict=True) if share <= 1]
        large = [a for a, share in zip(within, used, strict=True) if lowest <= share <= 1]
        return _diverse(sorted(large or trainable, key=lambda a: -scores[a]), SCREEN_SIZE)
    _, means, _ = fastest_forms(job.space, tables, architectures)
    return [architectures[i] for i in np.argsort(means)[:SCREEN_SIZE]]


def _diverse(architectures: list[Architecture], number: int) -> list[Architecture]:
    """Up to ``number`` of them in their order, those with kinds of blocks of their own first: scores of near twins
    differ by chance, and a wrong guess about a kind would be every twin's."""
    kinds = {a: tuple(v for name, v in a.as_dict.items() if name.endswith(".kind")) for a in reversed(architectures)}
    firsts = {kind: a for a, kind in kinds.items()}
    chosen = [a for a in architectures if firsts[kinds[a]] is a][:number]
    chosen += [a for a in architectures if a not in chosen][: number - len(chosen)]
    return sorted(chosen, key=architectures.index)


def _screen(
    job: Job, architectures: Sequence[Architecture], tables: Mapping[str, LatencyTable]
) -> dict[Architecture, Measurement]:
    """Measure with random weights, each in the form that ``tables`` predict to be its fastest; they learn from it."""
    if not architectures:
        return {}
    job.report("specialise", 0.0, f"measuring {len(architectures)} candidates")
    forms, _, _ = fastest_forms(job.space, tables, architectures)
    measured: dict[Architecture, Measurement] = {}
    for form in dict.fromkeys(forms):
        group = [a for a, f in zip(architectures, forms, strict=True) if f == form]
        measured |= _screen_in(job, form, group)
    return measured


def _screen_in(job: Job, form: str, architectures: Sequence[Architecture]) -> dict[Architecture, Measurement]:
    folder, table = job.folder / "probes", job.tables[form]
    records = TableLibrary(job.profiles_dir).records_path(job.target.name)
    builders = probe_builders(job.space, job.target, table.runtime, records, precision=table.precision)
    paths: dict[Architecture, Path] = {}
    for architecture in architectures:
        try:
            paths[architecture] = builders.network(architecture, folder / f"{architecture.id}.{form}")
        except CompileError as error:
            _log.warning("%s cannot be built for %s and is left out: %s", architecture.id, form, error)
    reference = builders.network(reference_architecture(job.space), folder / f"reference.{form}")
    max_total_sec = min(4.0 * len(architectures), max(0.05 * job.plan.total, 5.0))
    protocol = MeasureProtocol(target_relative_interval=0.01, max_total_sec=max_total_sec)
    results = job.device(table.runtime).measure(list(paths.values()), reference, protocol)
    measured = {a: r for a, r in zip(paths, results, strict=True) if isinstance(r, Measurement)}
    for architecture, result in measured.items():
        payload = {
            "samples_ms": list(result.samples_ms),
            "conditions": dict(result.conditions),
            "weights": "random",
            "precision": table.precision,
        }
        job.store.add_measurement(architecture.id, job.target.name, table.runtime, payload)
    _keep_predictions(job, list(measured), table)
    known = {o.architecture_id for o in table.observations}
    observations = [_observation(job, table, a, m) for a, m in measured.items() if a.id not in known]
    job.tables[form] = table.with_observations(observations)
    save_table(job.tables[form], kept_table_path(job, form))
    return measured


def _observation(job: Job, table: LatencyTable, architecture: Architecture, measured: Measurement) -> Observation:
    """At the speed the machine had when the table was made, by the reference network that both timed."""
    then, now = (c.get("reference_median_ms") for c in (table.conditions, measured.conditions))
    scale = then / now if isinstance(then, float) and isinstance(now, float) else 1.0
    counts = table.counts(job.space.layers(architecture))
    session = str(measured.conditions.get("date", ""))
    return Observation(architecture.id, counts, scale * measured.median_ms, scale * measured.deviation_ms, session)


def _keep_predictions(job: Job, architectures: Sequence[Architecture], table: LatencyTable) -> None:
    """What the table said *before* these measurements improved it: the only honest prediction to compare with.

    Under the architecture's id what was said first, in whatever form; with the form's name what was said of that.
    """
    kept = job.store.setting("predictions", {})
    for architecture in architectures:
        estimate = table.predict(job.space.layers(architecture))
        row = {
            "runtime": table.runtime,
            "precision": table.precision,
            "mean_ms": estimate.mean_ms,
            "interval_ms": list(estimate.interval_ms),
        }
        kept.setdefault(architecture.id, row)
        kept.setdefault(f"{architecture.id} {table.form}", row)
    job.store.set_setting("predictions", kept)


def _limit_not_met(job: Job, measured: dict[Architecture, Measurement]) -> LimitNotMetError:
    limit = job.settings.latency_ms
    if not measured:
        return LimitNotMetError(
            f"no scored candidate is predicted to run within {limit:g} ms on {job.target.name}",
            fix="a higher --latency-ms, or a longer --budget so that more candidates are scored",
        )
    nearest = min(measured, key=lambda a: measured[a].interval_ms[1])
    found = measured[nearest]
    job.store.set_setting("nearest", {"id": nearest.id})
    low, high = found.interval_ms
    return LimitNotMetError(
        f"none of {len(measured)} measured candidates meets {limit:g} ms on {job.target.name}; the nearest, "
        f"{nearest.id}, takes {found.median_ms:.3g} ms (measured, 95 % interval {low:.3g} to {high:.3g})",
        fix=f"--latency-ms {high * 1.1:.2g}; the nearest one is kept: "
        f"hwautoml export --run {job.folder} --arch {nearest.id} --format onnx",
    )
