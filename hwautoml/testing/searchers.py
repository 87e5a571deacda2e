"""What every searcher must do: subclass ``SearcherSuite`` in a test file of your own and name your searcher.

    from hwautoml.testing.searchers import SearcherSuite

    class TestMine(SearcherSuite):
        searcher = "mine"  # as its entry point is called

``SyntheticRun`` stands in for a trained supernet and a latency table, in tests of your own as well.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.network_costs import CostTable
from hwautoml.core.objective import SHARE, Limit, Objective
from hwautoml.core.pareto import hypervolume
from hwautoml.core.space import Architecture, SearchSpace
from hwautoml.objectives import known_values, load_objectives, scored_values
from hwautoml.objectives.base import Definition
from hwautoml.searchers import load_searcher
from hwautoml.searchers.feasibility import nearest_to_limits
from hwautoml.searchers.problem import SearchProblem
from hwautoml.spaces import load_space
from hwautoml.testing._pytest import pytest

# Milliseconds per million multiply-accumulates: dense blocks are cheap on this device, depthwise ones are not.
MS_PER_MMAC = {"mbconv": 0.3, "mbconv_se": 0.35, "fused": 0.05, "basic": 0.06}
WORST_RECALL = Definition(
    Objective("worst_recall", SHARE, "maximize", "scored"), scored=lambda outcome: outcome.worst_recall
)


@dataclass(frozen=True)
class SyntheticOutcome:
    accuracy: float
    worst_recall: float


@dataclass
class SyntheticRun:
    """Accuracy grows with size, depends on every option and is seen with noise; latency is known.

    ``calls`` counts evaluations.
    """

    seed: int = 0
    noise: float = 0.004
    space: SearchSpace = field(default_factory=lambda: load_space("mobile", image_size=32, channels=3, num_outputs=10))
    calls: Counter[Architecture] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(1000 + self.seed)
        self.weights = [self.rng.normal(0, 0.006, int(n)) for n in self.space.num_options]
        self.recall_weights = [
            np.random.default_rng(c).normal(0, 0.01, int(n)) for c, n in enumerate(self.space.num_options)
        ]
        self.layer_ms = np.append(
            [0.01 + MS_PER_MMAC.get(ly.kind, 0.1) * self.space.cost(ly).macs / 1e6 for ly in self.space.all_layers()],
            0.0,
        )
        self.costs = CostTable(self.space)

    def true_accuracy(self, architecture: Architecture) -> float:
        indices = self.space.encode(architecture)
        costs = self.costs.costs(indices[None])
        options = sum(w[i] for w, i in zip(self.weights, indices, strict=True))
        size = 0.03 * np.log(costs.macs[0] / 1e5) + 0.02 * np.log(costs.parameters[0] / 1e4)
        return float(0.2 + size + options)

    def evaluate(self, architecture: Architecture) -> SyntheticOutcome:
        self.calls[architecture] += 1
        accuracy = self.true_accuracy(architecture) + float(self.rng.normal(0, self.noise))
        options = zip(self.recall_weights, self.space.encode(architecture), strict=True)
        return SyntheticOutcome(accuracy, accuracy - 0.1 + float(sum(w[i] for w, i in options)))

    def latencies(self, encodings: NDArray[np.integer]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Means and deviations in ms."""
        indices = self.space.layer_indices(encodings)
        means = 0.02 + self.layer_ms[indices].sum(axis=1)
        return means, 0.02 * means

    def latency_ms(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        return self.latencies(np.array([self.space.encode(a) for a in architectures]))[0]

    def problem(
        self,
        objectives: Sequence[str | Definition] = ("accuracy", "latency_ms"),
        limits: Sequence[str] = (),
        *,
        seed: int = 0,
        max_evaluations: int = 30,
        budget_sec: float = 600.0,
        **more: Any,
    ) -> SearchProblem:
        """``more`` goes to ``SearchProblem``."""
        bounds = {limit.name: limit for limit in map(Limit.parse, limits)}
        definitions = [d if isinstance(d, Definition) else load_objectives([d])[0] for d in objectives]
        definitions = [d.limited(bounds[d.objective.name]) if d.objective.name in bounds else d for d in definitions]
        return SearchProblem(
            space=self.space,
            objectives=tuple(d.objective for d in definitions),
            known=known_values(definitions, self.space, self.latencies),
            evaluate=more.pop("evaluate", self.evaluate),
            score=scored_values(definitions),
            rng=np.random.default_rng(seed),
            max_evaluations=max_evaluations,
            budget_sec=budget_sec,
            **more,
        )


# One to four objectives, scored and known, with and without limits.
PROBLEMS: dict[str, tuple[tuple[str | Definition, ...], tuple[str, ...]]] = {
    "accuracy": (("accuracy",), ()),
    "latency": (("latency_ms",), ()),
    "accuracy within a latency": (("accuracy", "latency_ms"), ("latency_ms<=1",)),
    "accuracy within a latency and parameters": (
        ("accuracy", "latency_ms", "parameters"),
        ("latency_ms<=1.5", "parameters<=200000"),
    ),
    "all four": (("accuracy", WORST_RECALL, "latency_ms", "macs"), ("accuracy>=0.25", "latency_ms<=1.5")),
}
every_problem = pytest.mark.parametrize("name", PROBLEMS)


class SearcherSuite:
    """``searcher`` is the name that ``hwautoml run --searcher`` takes."""

    searcher: str

    def search(self, problem: SearchProblem) -> SearchProblem:
        load_searcher(self.searcher).search(problem)
        return problem

    @every_problem
    def test_no_more_than_the_allowed_evaluations_are_made_and_none_twice(self, name: str) -> None:
        run = SyntheticRun()
        problem = self.search(run.problem(*PROBLEMS[name], max_evaluations=17))
        assert 0 < problem.num_evaluated == len(problem.evaluated) == sum(run.calls.values()) <= 17
        assert max(run.calls.values()) == 1

    @every_problem
    def test_the_same_seed_gives_the_same_search(self, name: str) -> None:
        """Whatever the global generators' states: random numbers come from ``problem.rng``."""

        def found(seed: int, elsewhere: int) -> list[str]:
            random.seed(elsewhere)
            np.random.seed(elsewhere)
            problem = self.search(SyntheticRun().problem(*PROBLEMS[name], seed=seed, max_evaluations=14))
            return [a.id for a in problem.evaluated]

        assert found(3, 1) == found(3, 2)
        if name != "latency":  # where everything is known, it may well find the same
            assert found(4, 1) != found(3, 1)

    def test_known_outcomes_are_used_and_not_asked_for_again(self) -> None:
        run, limits = SyntheticRun(), ("latency_ms<=1",)
        first = self.search(run.problem(limits=limits, max_evaluations=12))
        known = dict(first.outcomes)
        again = self.search(run.problem(limits=limits, max_evaluations=12, outcomes=dict(known)))
        assert max(run.calls.values()) == 1
        assert again.num_evaluated <= 12 and len(again.evaluated) == len(known) + again.num_evaluated
        assert again.outcomes.items() >= known.items()

    def test_an_objective_may_be_added_later(self) -> None:
        """Outcomes of a search for other objectives are as good as new ones."""
        run = SyntheticRun()
        first = self.search(run.problem(max_evaluations=12))
        more = run.problem(("accuracy", WORST_RECALL, "latency_ms"), max_evaluations=8, outcomes=dict(first.outcomes))
        self.search(more)
        assert more.evaluated[: len(first.evaluated)] == first.evaluated
        assert not np.isnan(more.values).any()

    def test_a_search_ends_with_its_budget(self) -> None:
        run = SyntheticRun()

        def slow(architecture: Architecture) -> SyntheticOutcome:
            time.sleep(0.02)
            return run.evaluate(architecture)

        problem = self.search(run.problem(evaluate=slow, max_evaluations=10**6, budget_sec=0.5))
        assert 0 < problem.num_evaluated < 30 and problem.seconds < 10

    def test_a_budget_of_nothing_evaluates_at_most_one(self) -> None:
        assert self.search(SyntheticRun().problem(budget_sec=0.0)).num_evaluated <= 1

    def test_a_limit_that_almost_nothing_meets_does_not_take_all_the_time(self) -> None:
        run = SyntheticRun()
        least = run.latency_ms([nearest_to_limits(run.problem(limits=("latency_ms<=1",)))])[0]
        problem = run.problem(limits=(f"latency_ms<={1.001 * least}",), max_evaluations=60, budget_sec=60.0)
        assert self.search(problem).seconds < 30

    def test_outcomes_that_say_nothing_do_not_end_the_search(self) -> None:
        run = SyntheticRun()

        def failing(architecture: Architecture) -> SyntheticOutcome:
            outcome = run.evaluate(architecture)
            failed = sum(run.calls.values()) % 3 == 0
            return SyntheticOutcome(np.nan, np.nan) if failed else outcome

        problem = self.search(run.problem(limits=("latency_ms<=1.5",), evaluate=failing, max_evaluations=20))
        assert problem.num_evaluated > 6 and np.isnan(problem.values[:, 0]).sum() >= 2

    def test_it_is_no_worse_than_chance(self) -> None:
        """The volume that the front dominates within the limit, against that of random sampling within it."""
        volumes: dict[str, list[float]] = {self.searcher: [], "random": []}
        for seed, name in ((seed, name) for seed in range(3) for name in volumes):
            run = SyntheticRun(seed)
            problem = run.problem(limits=("latency_ms<=1.5",), seed=seed, max_evaluations=48)
            load_searcher(name).search(problem)
            truth = [-run.true_accuracy(a) for a in problem.evaluated]
            volumes[name].append(hypervolume(np.column_stack([truth, problem.values[:, 1]]), (-0.2, 1.5)))
        assert np.median(volumes[self.searcher]) > 0.7 * np.median(volumes["random"])
