"""Finding searchers, and how those of this package keep limits; what every searcher must do is in the suite."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwautoml.errors import InvalidValueError, UnknownNameError
from hwautoml.searchers import SEARCHERS, load_searcher
from hwautoml.searchers.feasibility import nearest_to_limits
from hwautoml.testing.searchers import SyntheticRun
from tests.entry_points import install

TIGHT_MS = 0.7


def test_an_unknown_searcher_is_refused_and_the_known_ones_are_listed() -> None:
    with pytest.raises(UnknownNameError, match="unknown searcher 'surogate'; known: surrogate, "):
        load_searcher("surogate")


def test_what_is_no_searcher_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    install(tmp_path, "no_searcher", SEARCHERS.group, "odd = no_searcher:PART")
    monkeypatch.setattr("hwautoml.searchers.SEARCHERS", replace(SEARCHERS))  # found anew
    with pytest.raises(InvalidValueError, match=r"searcher 'odd' of package 'no_searcher' is 7, which has no search"):
        load_searcher("odd")


@pytest.mark.parametrize("name", ["surrogate", "random"])
def test_a_tight_limit_is_searched_within(name: str, run: SyntheticRun) -> None:
    problem = run.problem(limits=[f"latency_ms<={TIGHT_MS}"], max_evaluations=30)
    load_searcher(name).search(problem)
    feasible = run.latency_ms(problem.evaluated) <= TIGHT_MS
    assert feasible.mean() > 0.6, "in this space 2 % of all samples"
    best = problem.best_feasible()
    assert best is not None and run.latency_ms([best])[0] <= TIGHT_MS


@pytest.mark.parametrize("name", ["surrogate", "random"])
def test_two_limits_are_searched_within(name: str, run: SyntheticRun) -> None:
    limits = ["latency_ms<=0.7", "parameters<=30000"]
    problem = run.problem(("accuracy", "latency_ms", "parameters"), limits, max_evaluations=30)
    load_searcher(name).search(problem)
    assert problem.is_within(problem.minimised).mean() > 0.6
    assert problem.best_feasible() is not None


@pytest.mark.parametrize("name", ["surrogate", "random"])
def test_a_limit_that_almost_nothing_meets_does_not_take_all_the_time(name: str, run: SyntheticRun) -> None:
    """A few networks are within it; once they are known, drawing on for the rest of the budget is a waste."""
    nearest = nearest_to_limits(run.problem(limits=["latency_ms<=1"]))
    limit = 1.0001 * run.latency_ms([nearest])[0]
    problem = run.problem(limits=[f"latency_ms<={limit}"], max_evaluations=40, budget_sec=60.0)
    load_searcher(name).search(problem)
    assert problem.best_feasible() is not None
    assert not problem.is_over, "ended by itself"


def test_a_lower_bound_of_what_is_scored_is_searched_for(run: SyntheticRun) -> None:
    """Few networks reach it; the surrogate goes where it expects them."""
    shares = {}
    for name in ("surrogate", "random"):
        problem = run.problem(limits=["accuracy>=0.49", "latency_ms<=2"], max_evaluations=40)
        load_searcher(name).search(problem)
        shares[name] = (problem.values[20:, 0] >= 0.49).mean()
    assert shares["surrogate"] > 2 * shares["random"] and shares["surrogate"] > 0.3, shares
