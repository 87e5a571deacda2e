"""What every searcher must do; the rest is in the file of each."""

from __future__ import annotations

import time

import numpy as np
import pytest

from hwautoml.errors import UnknownNameError
from hwautoml.searchers import SEARCHERS, load_searcher
from hwautoml.searchers.problem import fastest

TIGHT_MS = 0.7
every_searcher = pytest.mark.parametrize("name", SEARCHERS)


def test_an_unknown_searcher_is_refused_and_the_known_ones_are_listed() -> None:
    with pytest.raises(UnknownNameError, match="unknown searcher 'surogate'; known: surrogate, "):
        load_searcher("surogate")


@every_searcher
def test_no_more_than_the_allowed_evaluations_are_made(name: str, device, make_problem) -> None:
    problem = make_problem(device, max_evaluations=17)
    load_searcher(name).search(problem)
    assert problem.num_evaluated == len(problem.scores) == sum(device.calls.values()) == 17


@every_searcher
def test_nothing_is_evaluated_twice(name: str, device, make_problem) -> None:
    load_searcher(name).search(make_problem(device, max_evaluations=24))
    assert max(device.calls.values()) == 1


@every_searcher
def test_known_scores_are_used_and_not_asked_for_again(name: str, device, make_problem) -> None:
    first = make_problem(device, max_evaluations=15)
    load_searcher(name).search(first)
    known = dict(first.scores)
    again = make_problem(device, max_evaluations=15, scores=dict(known))
    load_searcher(name).search(again)
    assert max(device.calls.values()) == 1
    assert len(again.scores) == 30 and again.num_evaluated == 15
    assert all(again.scores[a] == score for a, score in known.items())


@every_searcher
def test_a_search_ends_with_its_budget(name: str, device, make_problem) -> None:
    problem = make_problem(device, max_evaluations=10**6, budget_sec=0.5)
    evaluate = problem.evaluate

    def slow(architecture) -> float:  # type: ignore[no-untyped-def]
        time.sleep(0.02)
        return evaluate(architecture)

    problem.evaluate = slow
    load_searcher(name).search(problem)
    assert 0 < problem.num_evaluated < 30
    assert problem.is_over and problem.share == 1.0


@every_searcher
def test_a_budget_of_nothing_evaluates_at_most_one(name: str, device, make_problem) -> None:
    problem = make_problem(device, budget_sec=0.0)
    load_searcher(name).search(problem)
    assert problem.num_evaluated <= 1


@every_searcher
def test_the_same_seed_gives_the_same_search(name: str, make_device, make_problem) -> None:
    def scores(seed: int) -> list[tuple[str, float]]:
        problem = make_problem(make_device(), seed=seed, max_evaluations=12)
        load_searcher(name).search(problem)
        return [(a.id, score) for a, score in problem.scores.items()]

    first = scores(3)
    assert scores(3) == first
    assert scores(4) != first


@every_searcher
def test_progress_ends_complete_and_never_falls_back(name: str, device, make_problem) -> None:
    events: list[tuple[int, int, str]] = []
    problem = make_problem(device, max_evaluations=12, on_progress=lambda *event: events.append(event))
    load_searcher(name).search(problem)
    shares = [done / total for done, total, _ in events]
    assert len(events) == 12 and shares == sorted(shares) and shares[-1] == 1.0
    assert events[-1][2].startswith("12 scored, ")


@pytest.mark.parametrize("name", ["surrogate", "random"])
def test_a_tight_limit_is_searched_within(name: str, device, make_problem) -> None:
    problem = make_problem(device, limit_ms=TIGHT_MS, max_evaluations=30)
    load_searcher(name).search(problem)
    feasible = device.latencies(list(problem.scores))[0] <= TIGHT_MS
    assert feasible.mean() > 0.6, "in this space 2 % of all samples"
    best = problem.best_feasible()
    assert best is not None and device.latencies([best])[0][0] <= TIGHT_MS


@pytest.mark.parametrize("name", ["surrogate", "random"])
def test_a_limit_that_almost_nothing_meets_does_not_take_all_the_time(name: str, device, make_problem) -> None:
    """A few networks are within it; once they are known, drawing on for the rest of the budget is a waste."""
    problem = make_problem(device, max_evaluations=40, budget_sec=60.0)
    problem.limit_ms = 1.0001 * fastest(problem.space, problem.latencies, np.random.default_rng(0))[1]
    load_searcher(name).search(problem)
    assert problem.best_feasible() is not None
    assert not problem.is_over, "ended by itself"
