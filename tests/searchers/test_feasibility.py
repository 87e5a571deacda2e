from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from hwautoml.core.objective import Limit
from hwautoml.errors import InfeasibleLimitError
from hwautoml.searchers.feasibility import descend, nearest_to_limits, require_feasible
from hwautoml.testing.searchers import SyntheticRun


@pytest.fixture
def require(run: SyntheticRun) -> Callable[[Sequence[str]], None]:
    def require(limits: Sequence[str]) -> None:
        names = dict.fromkeys(["accuracy", *(Limit.parse(text).name for text in limits)])
        problem = run.problem(list(names), limits)
        require_feasible(problem.space, problem.objectives, problem.known, np.random.default_rng(0))

    return require


def fastest(run: SyntheticRun) -> tuple[str, float]:
    architecture, milliseconds = descend(run.space, lambda e: run.latencies(e)[0], np.random.default_rng(0))
    return architecture.id, milliseconds


def test_descent_finds_a_lower_cost_than_many_samples(run: SyntheticRun) -> None:
    architecture, milliseconds = descend(run.space, lambda e: run.latencies(e)[0], np.random.default_rng(1))
    assert run.latency_ms([architecture])[0] == milliseconds
    rng = np.random.default_rng(2)
    assert milliseconds <= run.latency_ms([run.space.sample(rng) for _ in range(1000)]).min()
    assert milliseconds <= run.latency_ms([run.space.smallest()])[0]


def test_the_nearest_to_several_limits_keeps_them_all(run: SyntheticRun) -> None:
    limits = ["latency_ms<=0.5", "parameters<=20000"]
    found = nearest_to_limits(run.problem(("accuracy", "latency_ms", "parameters"), limits))
    assert run.latency_ms([found])[0] <= 0.5 and run.space.total_cost(found).parameters <= 20_000


def test_a_limit_that_nothing_meets_names_what_is_reachable(run: SyntheticRun, require) -> None:
    architecture, milliseconds = fastest(run)
    with pytest.raises(InfeasibleLimitError) as caught:
        require([f"latency_ms<={0.9 * milliseconds}"])
    message = str(caught.value)
    assert f"meets latency_ms<={0.9 * milliseconds:.12g}" in message
    assert f"the lowest latency_ms is {milliseconds:.3g} ms (predicted, network {architecture})" in message
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("limit", ["latency_ms<=0.001", "parameters<=3", "macs<=1", "peak_activation_bytes<=64"])
def test_the_fix_of_a_limit_out_of_reach_is_within_reach(require, limit: str) -> None:
    with pytest.raises(InfeasibleLimitError) as caught:
        require([limit])
    require([(caught.value.fix or "").split("such as ")[1].split(",")[0]])


def test_limits_that_contradict_each_other_are_named(run: SyntheticRun, require) -> None:
    """Dense blocks are fast here and have many weights: the fastest networks are not the smallest."""
    _, milliseconds = fastest(run)
    quick, small, loose = f"latency_ms<={1.01 * milliseconds}", "parameters<=12000", "macs<=1e9"
    for alone in (quick, small, loose):
        require([alone])
    with pytest.raises(InfeasibleLimitError, match="together, though each alone can be met") as caught:
        require([loose, quick, small])
    message = str(caught.value)
    assert "latency_ms<=" in message and small in message and "macs" not in message
    assert "the nearest" in message and (caught.value.fix or "").startswith("loosen one of them, such as ")


def test_limits_of_what_is_scored_are_left_to_the_search(require) -> None:
    require(["accuracy>=0.999"])


def test_no_limit_is_no_problem(require) -> None:
    require([])
