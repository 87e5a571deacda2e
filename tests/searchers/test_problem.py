from __future__ import annotations

import numpy as np
import pytest

from hwautoml.errors import InfeasibleLimitError
from hwautoml.searchers.problem import fastest, front, require_feasible


def test_the_front_is_non_dominated_and_fastest_first(device, make_problem) -> None:
    problem = make_problem(device)
    rng = np.random.default_rng(0)
    problem.scores.update({a: device.evaluate(a) for a in (problem.space.sample(rng) for _ in range(200))})
    found = front(problem)
    latencies, scores = device.latencies(found)[0], [problem.scores[a] for a in found]
    assert 2 < len(found) < 60
    assert np.all(np.diff(latencies) > 0) and np.all(np.diff(scores) > 0), "slower must mean more accurate"
    for architecture, score in problem.scores.items():
        milliseconds = device.latencies([architecture])[0][0]
        assert any(ms <= milliseconds and s >= score for ms, s in zip(latencies, scores, strict=True)), architecture.id


def test_the_front_of_nothing_is_empty(device, make_problem) -> None:
    assert front(make_problem(device)) == []


def test_the_best_feasible_is_the_most_accurate_within_the_limit(device, make_problem) -> None:
    problem = make_problem(device, limit_ms=1.5)
    assert problem.best_feasible() is None
    rng = np.random.default_rng(0)
    problem.scores.update({a: device.evaluate(a) for a in (problem.space.sample(rng) for _ in range(100))})
    within = {a: s for a, s in problem.scores.items() if device.latencies([a])[0][0] <= 1.5}
    assert 0 < len(within) < 100
    assert problem.best_feasible() == max(within, key=lambda a: within[a])
    problem.limit_ms = 0.001
    assert problem.best_feasible() is None


def test_a_score_is_asked_for_once(device, make_problem) -> None:
    problem = make_problem(device, max_evaluations=2)
    architecture = problem.space.smallest()
    assert problem.evaluate_once(architecture) == problem.evaluate_once(architecture)
    assert device.calls[architecture] == problem.num_evaluated == 1
    assert not problem.is_over and problem.share == 0.5
    problem.evaluate_once(problem.space.largest())
    assert problem.is_over


def test_the_fastest_network_is_faster_than_many_samples(device, make_problem) -> None:
    space = make_problem(device).space
    architecture, milliseconds = fastest(space, device.latencies, np.random.default_rng(1))
    assert device.latencies([architecture])[0][0] == pytest.approx(milliseconds)
    rng = np.random.default_rng(2)
    assert milliseconds <= device.latencies([space.sample(rng) for _ in range(1000)])[0].min()
    assert milliseconds <= device.latencies([space.smallest()])[0][0]


def test_a_limit_that_nothing_meets_names_the_fastest(device, make_problem) -> None:
    space = make_problem(device).space
    architecture, milliseconds = fastest(space, device.latencies, np.random.default_rng(0))
    with pytest.raises(InfeasibleLimitError) as caught:
        require_feasible(space, device.latencies, 0.9 * milliseconds, np.random.default_rng(0))
    message = str(caught.value)
    assert f"within {0.9 * milliseconds:g} ms" in message
    assert f"the fastest ({architecture.id}) takes {milliseconds:.3g} ms (predicted)" in message
    assert "--latency-ms" in (caught.value.fix or "")
    assert caught.value.exit_code == 5


def test_the_fix_of_an_infeasible_limit_is_feasible(device, make_problem) -> None:
    space = make_problem(device).space
    with pytest.raises(InfeasibleLimitError) as caught:
        require_feasible(space, device.latencies, 0.001, np.random.default_rng(0))
    suggested = float((caught.value.fix or "").split()[1])
    assert require_feasible(space, device.latencies, suggested, np.random.default_rng(0)) <= suggested
