"""Stage and verb: the front of accuracy against latency; evaluations are journaled as they finish."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hwautoml.core import json_form
from hwautoml.core.form import Form
from hwautoml.core.latency_predictor import fastest_forms, latencies_of
from hwautoml.core.plan import Plan
from hwautoml.core.space import Architecture, Value
from hwautoml.core.task import Scored
from hwautoml.objectives import known_values, scored_values
from hwautoml.objectives.base import Definition
from hwautoml.pipeline.runs.context import RunContext
from hwautoml.pipeline.runs.journal import SHARED
from hwautoml.pipeline.runs.judging import ACCURACY
from hwautoml.pipeline.runs.outcomes import Searched
from hwautoml.pipeline.runs.resources import Resources, lowest_utilisation
from hwautoml.pipeline.runs.trust import promise, trust_of
from hwautoml.pipeline.stages.training import load_supernet
from hwautoml.searchers import feasibility, load_searcher
from hwautoml.searchers.problem import SearchProblem, front
from hwautoml.searchers.surrogate import guessed
from hwautoml.store.run_store import Evaluation

if TYPE_CHECKING:
    from hwautoml.core.latency_table import LatencyTable
    from hwautoml.supernets.evaluator import Evaluator

FOCUS_SHARE = 0.6  # of the search time, at most, for members that are worth training
FOCUS_DRAWS, FOCUS_BATCH, MIN_FOCUSED = 128, 8, 8


def search_stage(run: RunContext, resources: Resources, plan: Plan) -> Searched:
    """The front; and while a supernet is too little trained to say whether large or small members are better, scores
    of members that use what there is, to choose between those (``resources``)."""
    return run.once(Searched, lambda: _search(run, resources, plan))


def _search(run: RunContext, resources: Resources, plan: Plan) -> Searched:
    trust = trust_of(run)
    budget_sec = max(plan.search - run.journal.stage_sec(Searched.stage), 0.0)  # less that of an interrupted session
    focus_sec = FOCUS_SHARE * (1 - trust) * budget_sec
    judged = run.settings.definitions
    problem = run_search(run, resources.tables, judged, plan.max_evaluations, budget_sec - focus_sec)
    if trust < 1:
        _score_where_it_counts(resources, problem, focus_sec, trust)
    return Searched(len(problem.evaluated))


def _score_where_it_counts(resources: Resources, problem: SearchProblem, budget_sec: float, trust: float) -> None:
    """Score the most promising of many random members that are worth training; a few of them at least."""
    ends, num_scored = time.monotonic() + budget_sec, 0
    space, sandwich = resources.space, resources.sandwich(reach=1.0)
    # Further limits may leave only small ones, of which the larger ones are the more promising.
    lowest = lowest_utilisation(trust) if np.isfinite(problem.limits).sum() == 1 else 0.0
    while True:
        drawn = [space.sample(problem.rng) for _ in range(FOCUS_DRAWS)]
        drawn += [sandwich.random(problem.rng) for _ in range(FOCUS_BATCH)]  # also where few are small enough
        used = resources.utilisation(drawn)
        fresh = {a: None for a, share in zip(drawn, used, strict=True) if lowest <= share <= 1}
        candidates = [a for a in fresh if not problem.is_evaluated(a)]
        within = problem.is_within(problem.foreseen(candidates))
        candidates = [a for a, is_within in zip(candidates, within, strict=True) if is_within]
        if not candidates:
            return
        scores = guessed(space, problem.values_of(ACCURACY), candidates)
        for index in np.argsort(-promise(space, scores, candidates, trust))[:FOCUS_BATCH]:
            if time.monotonic() > ends and num_scored >= MIN_FOCUSED:
                return
            problem.evaluate_once(candidates[index])
            num_scored += 1


def require_feasible(
    run: RunContext, tables: Mapping[str, LatencyTable], definitions: Sequence[Definition], seed: int | None = None
) -> None:
    """Raises InfeasibleLimitError: nothing in the space meets the limits, as far as that is known before training."""
    feasibility.require_feasible(
        run.space,
        [definition.objective for definition in definitions],
        known_values(definitions, run.space, latencies_of(run.space, tables)),
        np.random.default_rng(run.settings.seed if seed is None else seed),
    )


def run_search(
    run: RunContext,
    tables: Mapping[str, LatencyTable],
    definitions: Sequence[Definition],
    max_evaluations: int,
    budget_sec: float,
    seed: int | None = None,
) -> SearchProblem:
    """Search from everything the journal already knows; ``seed`` defaults to the run's."""
    known = run.journal.shared_scores(run.space)
    problem = SearchProblem(
        space=run.space,
        objectives=tuple(definition.objective for definition in definitions),
        known=known_values(definitions, run.space, latencies_of(run.space, tables)),
        evaluate=SharedScorer(run),
        score=scored_values(definitions),
        rng=np.random.default_rng(run.settings.seed if seed is None else seed),
        max_evaluations=max_evaluations,
        budget_sec=budget_sec,
        outcomes={evaluation.architecture: Scored(run.dataset.task, evaluation.outcome) for evaluation in known},
        on_progress=lambda done, total, text: run.report("search", min(done / total, 0.999), text),
    )
    load_searcher(run.settings.searcher).search(problem)
    return problem


class SharedScorer:
    """Scores a member with the supernet's weights, and journals that.

    The supernet is loaded when the first score is asked for: a search of known ones needs no weights.
    """

    def __init__(self, run: RunContext) -> None:
        self.run = run
        self._evaluator: Evaluator | None = None

    def __call__(self, architecture: Architecture) -> Scored:
        started = time.monotonic()
        if self._evaluator is None:
            self._evaluator = shared_evaluator(self.run)
        outcome = self._evaluator(architecture)
        evaluation = Evaluation(architecture, SHARED, "val", outcome, time.monotonic() - started)
        self.run.journal.add_evaluation(evaluation)
        return Scored(self.run.dataset.task, outcome)


def shared_evaluator(run: RunContext) -> Evaluator:
    """Of the run's trained supernet. Raises RunFolderError where that is missing or damaged."""
    from hwautoml.supernets.evaluator import Evaluator
    from hwautoml.supernets.training import default_device

    return Evaluator(load_supernet(run), run.dataset, trust=trust_of(run), device=default_device())


@dataclass(frozen=True)
class FrontRow:
    """One network of a front; its latency is predicted, in the form ``runtime`` and ``precision``.

    ``objectives`` has the value of each by name; ``meets_limit`` says whether all limits are met.
    """

    id: str
    values: Mapping[str, Value]
    accuracy_val: float
    latency_ms: float
    latency_std_ms: float
    latency_origin: str
    runtime: str
    precision: str
    objectives: Mapping[str, float]
    meets_limit: bool

    def to_json(self) -> dict[str, Any]:
        return json_form.to_json(self)


def front_rows(problem: SearchProblem, tables: Mapping[str, LatencyTable], origin: str) -> tuple[FrontRow, ...]:
    """The front, fastest first; each row says in what form its latency is predicted."""
    architectures = front(problem)
    if not architectures:
        return ()
    names, means, deviations = fastest_forms(problem.space, tables, architectures)
    forms = [Form(tables[name].runtime, tables[name].precision) for name in names]
    values = {objective.name: problem.values_of(objective.name) for objective in problem.objectives}
    return tuple(
        FrontRow(
            a.id,
            a.as_dict,
            values[ACCURACY][a],
            float(ms),
            float(std),
            origin,
            form.runtime,
            form.precision,
            {name: of[a] for name, of in values.items()},
            all(objective.is_met(values[objective.name][a]) for objective in problem.objectives),
        )
        for a, form, ms, std in zip(architectures, forms, means, deviations, strict=True)
    )
