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

from hwautoml.core.elastic_space import ElasticSpace
from hwautoml.core.form import Form
from hwautoml.core.latency_file import save as save_table
from hwautoml.core.latency_predictor import fastest_forms
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.measurement import Measurement
from hwautoml.core.observation import Observation
from hwautoml.core.plan import Plan
from hwautoml.core.run_result import Prediction
from hwautoml.core.space import Architecture
from hwautoml.devices.protocol import MeasureProtocol
from hwautoml.errors import CompileError, LimitNotMetError
from hwautoml.pipeline.runs.context import RunContext
from hwautoml.pipeline.runs.journal import RANDOM
from hwautoml.pipeline.runs.judging import meets_known_limits
from hwautoml.pipeline.runs.resources import Resources, lowest_utilisation
from hwautoml.pipeline.runs.trust import promise, trust_of
from hwautoml.pipeline.stages.profiling import kept_table_path
from hwautoml.pipeline.tables.probes import probe_builders
from hwautoml.profilers.reference import reference_architecture
from hwautoml.searchers.surrogate import smoothed

SCREEN_SIZE = 8
MAX_SCREENS = 3
HEADROOM = 0.95  # of the limit when candidates are screened: a machine's speed drifts until the files are measured

_log = logging.getLogger(__name__)


def entrants(run: RunContext, resources: Resources, plan: Plan) -> list[Architecture]:
    """The most promising candidates that meet the limit by measurement, best first; see ``Journal.needing_int8``.

    Twice as many as finalists while the supernet's scores say little: their own training tells more.

    Raises:
        LimitNotMetError: no candidate met the limit when it was measured.
    """
    stored = run.journal.entrants(run.space)
    if stored is not None:
        return stored
    best = _Screening(run, resources, plan).best()
    run.journal.set_entrants(best)
    return best


class _Screening:
    """Measures candidates by and by; ``tables`` learn from every measurement and are kept in the run folder."""

    def __init__(self, run: RunContext, resources: Resources, plan: Plan) -> None:
        self.run, self.plan, self.trust = run, plan, trust_of(run)
        self.resources, self.tables = resources, dict(resources.tables)
        self.scores = _scores(run, self.trust)

    def best(self) -> list[Architecture]:
        measured: dict[Architecture, Measurement] = {}
        untried = dict(self.scores)
        number_wanted = self.plan.num_finalists * (1 if self.trust == 1 else 2)
        for number in range(MAX_SCREENS):
            screened = self.next_to_screen(untried, self.tables, is_last=number == MAX_SCREENS - 1)
            if not screened:
                break
            measured |= self._screen(screened, self.tables)
            untried = {a: score for a, score in untried.items() if a not in screened}
            passed = self._passing(measured, 1.0)
            if passed:
                ranked = sorted(self._passing(measured, HEADROOM) or passed, key=lambda a: -self.scores[a])
                return self._with_one_in_fp32(diverse(self.run.space, ranked, number_wanted))
        raise _limit_not_met(self.run, measured)

    def next_to_screen(
        self, scores: Mapping[Architecture, float], tables: Mapping[str, LatencyTable], *, is_last: bool
    ) -> list[Architecture]:
        """The most promising of those predicted to meet the limit; the prediction learns from every screening.

        Of those that can be trained in the time left, and while scores cannot choose between small and large members,
        of those that are no smaller than they have to be. The last time, and when none is predicted to meet the limit,
        the fastest: if anything scored meets it, it is found.
        """
        if not scores:
            return []
        architectures = list(scores)
        within = self._within(architectures, tables)
        if within and not is_last:
            used, lowest = self.resources.utilisation(within, tables), lowest_utilisation(self.trust)
            if used.min() > 1:  # none can be trained well: those that come nearest
                return [within[i] for i in np.argsort(used)[:SCREEN_SIZE]]
            trainable = [a for a, share in zip(within, used, strict=True) if share <= 1]
            large = [a for a, share in zip(within, used, strict=True) if lowest <= share <= 1]
            return diverse(self.run.space, sorted(large or trainable, key=lambda a: -scores[a]), SCREEN_SIZE)
        _, means, _ = fastest_forms(self.run.space, tables, architectures)
        return [architectures[i] for i in np.argsort(means)[:SCREEN_SIZE]]

    def _within(self, architectures: Sequence[Architecture], tables: Mapping[str, LatencyTable]) -> list[Architecture]:
        """Those predicted to meet the limit with some room, in their order."""
        _, means, _ = fastest_forms(self.run.space, tables, architectures)
        return [a for a, ms in zip(architectures, means, strict=True) if ms <= HEADROOM * self.run.limit_ms]

    def _passing(self, measured: Mapping[Architecture, Measurement], share: float) -> list[Architecture]:
        """With their whole interval within a share of the limit."""
        return [a for a, m in measured.items() if m.interval_ms[1] <= share * self.run.limit_ms]

    def _with_one_in_fp32(self, best: list[Architecture]) -> list[Architecture]:
        """The entrants, with one more that needs no int8 where all of them may; writes down which do."""
        tables = {form: table for form, table in self.tables.items() if table.precision == "fp32"}
        if not tables or len(tables) == len(self.tables):
            return best
        again = self._screen(self._within(best, tables), tables)
        passed = self._passing(again, HEADROOM)
        if not passed:
            scores = {a: score for a, score in self.scores.items() if a not in best}
            others = self.next_to_screen(scores, tables, is_last=False)
            passed = self._passing(self._screen(others[: SCREEN_SIZE // 2], tables), HEADROOM)
            passed = sorted(passed, key=lambda a: -self.scores[a])[:1]
        if not passed:
            _log.warning("no candidate is known to meet the limit in fp32: all depends on int8's accuracy")
        self.run.journal.set_needing_int8([a.id for a in best if a not in passed])
        return [*best, *(a for a in passed if a not in best)]

    def _screen(
        self, architectures: Sequence[Architecture], tables: Mapping[str, LatencyTable]
    ) -> dict[Architecture, Measurement]:
        """Measure with random weights, each in the form that ``tables`` predict to be its fastest."""
        if not architectures:
            return {}
        self.run.report("specialise", 0.0, f"measuring {len(architectures)} candidates")
        forms, _, _ = fastest_forms(self.run.space, tables, architectures)
        measured: dict[Architecture, Measurement] = {}
        for form in dict.fromkeys(forms):
            group = [a for a, f in zip(architectures, forms, strict=True) if f == form]
            measured |= self._screen_in(form, group)
        return measured

    def _screen_in(self, form: str, architectures: Sequence[Architecture]) -> dict[Architecture, Measurement]:
        run, table = self.run, self.tables[form]
        paths, reference = self._built(form, architectures)
        max_total_sec = min(4.0 * len(architectures), max(0.05 * self.plan.total, 5.0))
        protocol = MeasureProtocol(target_relative_interval=0.01, max_total_sec=max_total_sec)
        results = run.devices(table.runtime).measure(list(paths.values()), reference, protocol)
        measured = {a: r for a, r in zip(paths, results, strict=True) if isinstance(r, Measurement)}
        as_form = Form(table.runtime, table.precision)
        for architecture, found in measured.items():
            run.journal.add_measurement(architecture.id, run.target.name, as_form, found, weights=RANDOM)
        run.journal.keep_predictions({a: _prediction(run, table, a) for a in measured})
        known = {o.architecture_id for o in table.observations}
        observations = [_observation(run, table, a, m) for a, m in measured.items() if a.id not in known]
        self.tables[form] = table.with_observations(observations)
        save_table(self.tables[form], kept_table_path(run, form))
        return measured

    def _built(self, form: str, architectures: Sequence[Architecture]) -> tuple[dict[Architecture, Path], Path]:
        """Their files, as far as they can be built, and the reference network's."""
        run, table, folder = self.run, self.tables[form], self.run.folder / "probes"
        builders = probe_builders(run.space, run.target, table.runtime, run.records_path, precision=table.precision)
        paths: dict[Architecture, Path] = {}
        for architecture in architectures:
            try:
                paths[architecture] = builders.network(architecture, folder / f"{architecture.id}.{form}")
            except CompileError as error:
                _log.warning("%s cannot be built for %s and is left out: %s", architecture.id, form, error)
        return paths, builders.network(reference_architecture(run.space), folder / f"reference.{form}")


def _scores(run: RunContext, trust: float) -> dict[Architecture, float]:
    """Of those that meet the limits of what is known without a target."""
    task, scored = run.dataset.task, run.journal.shared_scores(run.space)
    smooth = smoothed(run.space, {e.architecture: task.score(e.outcome) for e in scored})
    within = meets_known_limits(run.settings.definitions, run.space, list(smooth))
    smooth = {a: score for (a, score), is_within in zip(smooth.items(), within, strict=True) if is_within}
    if not smooth:
        return {}
    return dict(zip(smooth, promise(run.space, np.array(list(smooth.values())), list(smooth), trust), strict=True))


def diverse(space: ElasticSpace, architectures: list[Architecture], number: int) -> list[Architecture]:
    """Up to ``number`` of them in their order, those with kinds of blocks of their own first: scores of near twins
    differ by chance, and a wrong guess about a kind would be every twin's."""
    kinds = {a: space.kinds(a) for a in reversed(architectures)}
    firsts = {kind: a for a, kind in kinds.items()}
    chosen = [a for a in architectures if firsts[kinds[a]] is a][:number]
    chosen += [a for a in architectures if a not in chosen][: number - len(chosen)]
    return sorted(chosen, key=architectures.index)


def _observation(
    run: RunContext, table: LatencyTable, architecture: Architecture, measured: Measurement
) -> Observation:
    """At the speed the machine had when the table was made, by the reference network that both timed."""
    then, now = (c.get("reference_median_ms") for c in (table.conditions, measured.conditions))
    scale = then / now if isinstance(then, float) and isinstance(now, float) else 1.0
    counts = table.counts(run.space.layers(architecture))
    session = str(measured.conditions.get("date", ""))
    return Observation(architecture.id, counts, scale * measured.median_ms, scale * measured.deviation_ms, session)


def _prediction(run: RunContext, table: LatencyTable, architecture: Architecture) -> Prediction:
    estimate = table.predict(run.space.layers(architecture))
    return Prediction(table.runtime, estimate.mean_ms, estimate.interval_ms, table.precision)


def _limit_not_met(run: RunContext, measured: Mapping[Architecture, Measurement]) -> LimitNotMetError:
    limit = run.limit_ms
    if not measured:
        return LimitNotMetError(
            f"no scored candidate is predicted to run within {limit:g} ms on {run.target.name}"
            + "".join(f" and meets {text}" for text in run.settings.limits),
            fix="a higher --latency-ms, or a longer --budget so that more candidates are scored",
        )
    nearest = min(measured, key=lambda a: measured[a].interval_ms[1])
    found = measured[nearest]
    run.journal.set_nearest(nearest)
    low, high = found.interval_ms
    return LimitNotMetError(
        f"none of {len(measured)} measured candidates meets {limit:g} ms on {run.target.name}; the nearest, "
        f"{nearest.id}, takes {found.median_ms:.3g} ms (measured, 95 % interval {low:.3g} to {high:.3g})",
        fix=f"--latency-ms {high * 1.1:.2g}; the nearest one is kept: "
        f"hwautoml export --run {run.folder} --arch {nearest.id} --format onnx",
    )
