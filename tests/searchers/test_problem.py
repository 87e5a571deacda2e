from __future__ import annotations

import numpy as np
import pytest

from hwautoml.core.space import Architecture
from hwautoml.errors import InvalidValueError
from hwautoml.searchers.problem import SearchProblem, front
from hwautoml.testing.searchers import WORST_RECALL, SyntheticOutcome, SyntheticRun

THREE = ("accuracy", "latency_ms", "parameters")


def evaluate_some(problem: SearchProblem, number: int, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(number):
        problem.evaluate_once(problem.space.sample(rng))


def test_the_front_is_non_dominated_and_fastest_first(run: SyntheticRun) -> None:
    problem = run.problem()
    evaluate_some(problem, 200)
    found, scores = front(problem), problem.values_of("accuracy")
    latencies = run.latency_ms(found)
    assert 2 < len(found) < 60
    assert np.all(np.diff(latencies) > 0), "fastest first"
    assert np.all(np.diff([scores[a] for a in found]) > 0), "slower must mean more accurate"
    for milliseconds, score in zip(run.latency_ms(problem.evaluated), scores.values(), strict=True):
        assert any(ms <= milliseconds and scores[a] >= score for ms, a in zip(latencies, found, strict=True))


def test_a_third_objective_keeps_what_is_best_in_it(run: SyntheticRun) -> None:
    two, three = run.problem(), run.problem(THREE)
    for problem in (two, three):
        evaluate_some(problem, 100)
    found = front(three)
    smallest = min(three.values_of("parameters").items(), key=lambda item: item[1])[0]
    assert smallest in found and len(found) > len(front(two))


def test_one_objective_has_one_best_network(run: SyntheticRun) -> None:
    problem = run.problem(["accuracy"])
    evaluate_some(problem, 50)
    scores = problem.values_of("accuracy")
    assert front(problem) == [max(scores, key=lambda a: scores[a])] == [problem.best_feasible()]


def test_the_front_of_nothing_is_empty(run: SyntheticRun) -> None:
    assert front(run.problem()) == [] and run.problem().values.shape == (0, 2)


def test_the_best_feasible_is_the_most_accurate_within_every_limit(run: SyntheticRun) -> None:
    assert run.problem().best_feasible() is None
    problem = run.problem(THREE, ["latency_ms<=1.5", "parameters<=150000"])
    evaluate_some(problem, 100)
    latency, parameters = problem.values_of("latency_ms"), problem.values_of("parameters")
    within = {a: s for a, s in problem.values_of("accuracy").items() if latency[a] <= 1.5 and parameters[a] <= 150_000}
    assert 0 < len(within) < 100
    assert problem.best_feasible() == max(within, key=lambda a: within[a])
    none = run.problem(limits=["latency_ms<=0.001"], outcomes=problem.outcomes)
    assert none.best_feasible() is None


def test_limits_of_what_is_scored_count_too(run: SyntheticRun) -> None:
    problem = run.problem(limits=["accuracy>=0.35"])
    evaluate_some(problem, 100)
    scores = problem.values_of("accuracy")
    best = problem.best_feasible()
    assert best is not None and scores[best] == max(scores.values()) >= 0.35
    assert run.problem(limits=["accuracy>=0.99"], outcomes=problem.outcomes).best_feasible() is None


def test_an_outcome_is_asked_for_once(run: SyntheticRun) -> None:
    problem = run.problem(max_evaluations=2)
    architecture = problem.space.smallest()
    assert problem.evaluate_once(architecture).tolist() == problem.evaluate_once(architecture).tolist()
    assert run.calls[architecture] == problem.num_evaluated == 1
    assert not problem.is_over and problem.share == 0.5
    problem.evaluate_once(problem.space.largest())
    assert problem.is_over


def test_what_is_known_and_what_an_evaluation_tells(run: SyntheticRun) -> None:
    problem = run.problem(("accuracy", WORST_RECALL, "latency_ms", "parameters"))
    assert problem.is_learned.tolist() == [True, True, False, False]
    members = [problem.space.smallest(), problem.space.largest()]
    foreseen = problem.foreseen(members)
    assert np.isnan(foreseen[:, :2]).all()
    assert foreseen[:, 2].tolist() == run.latency_ms(members).tolist()
    assert foreseen[:, 3].tolist() == [problem.space.total_cost(a).parameters for a in members]
    values = problem.evaluate_once(members[0])
    outcome = problem.outcomes[members[0]]
    assert values.tolist() == [outcome.accuracy, outcome.worst_recall, *foreseen[0, 2:]]
    assert problem.minimised.tolist() == [[-values[0], -values[1], *values[2:]]]


def test_what_an_outcome_says_counts_more_than_what_was_known(run: SyntheticRun) -> None:
    """An evaluation that measures the latency as well."""
    problem = run.problem(limits=["latency_ms<=1"])
    problem.score = lambda outcome: np.array([outcome.accuracy, 7.0])
    architecture = problem.space.smallest()
    assert problem.foreseen([architecture])[0, 1] < 1
    assert problem.evaluate_once(architecture)[1] == 7.0 and problem.best_feasible() is None


def test_another_search_reads_other_objectives_from_the_same_outcomes(run: SyntheticRun) -> None:
    first = run.problem()
    evaluate_some(first, 20)
    later = run.problem((WORST_RECALL, "num_kernels"), outcomes=first.outcomes)
    assert later.evaluated == first.evaluated and later.num_evaluated == 0
    assert list(later.values_of("worst_recall").values()) == [o.worst_recall for o in first.outcomes.values()]


def test_failed_evaluations_are_neither_on_the_front_nor_best(run: SyntheticRun) -> None:
    def failing(architecture: Architecture) -> SyntheticOutcome:
        return SyntheticOutcome(np.nan, np.nan)

    problem = run.problem(evaluate=failing)
    evaluate_some(problem, 3)
    assert front(problem) == [] and problem.best_feasible() is None and problem.num_evaluated == 3


@pytest.mark.parametrize("names", [(), ("accuracy", "accuracy")])
def test_objectives_have_different_names(run: SyntheticRun, names: tuple[str, ...]) -> None:
    with pytest.raises(InvalidValueError, match="a search needs objectives of different names"):
        run.problem(names)


def test_progress_ends_complete_and_never_falls_back(run: SyntheticRun) -> None:
    events: list[tuple[int, int, str]] = []
    problem = run.problem(max_evaluations=12, on_progress=lambda *event: events.append(event))
    evaluate_some(problem, 12)
    shares = [done / total for done, total, _ in events]
    assert len(events) == 12 and shares == sorted(shares) and shares[-1] == 1.0
    assert events[-1][2].startswith("12 scored, best within the limit ") and events[-1][2].endswith("%")
