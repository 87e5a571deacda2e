from __future__ import annotations

import numpy as np

from hwautoml.core.pareto import hypervolume_2d
from hwautoml.searchers import load_searcher
from hwautoml.searchers.surrogate import smoothed

LIMIT_MS = 1.0
SEEDS = (0, 1, 2)


def search(name: str, seed: int, make_device, make_problem):  # type: ignore[no-untyped-def]
    device = make_device(seed)
    problem = make_problem(device, seed=seed, max_evaluations=40, limit_ms=LIMIT_MS)
    load_searcher(name).search(problem)
    return device, problem


def test_the_surrogate_beats_random_search(make_device, make_problem) -> None:
    """On the true accuracy of the best network found, and on the whole front within the limit."""
    best, areas = {}, {}
    for name in ("surrogate", "random"):
        found = [search(name, seed, make_device, make_problem) for seed in SEEDS]
        best[name] = [device.true_accuracy(problem.best_feasible()) for device, problem in found]
        areas[name] = [
            hypervolume_2d(
                np.column_stack([device.latencies(list(p.scores))[0], [-device.true_accuracy(a) for a in p.scores]]),
                (LIMIT_MS, -0.3),
            )
            for device, p in found
        ]
    assert np.median(best["surrogate"]) > np.median(best["random"]) + 0.01
    assert np.median(areas["surrogate"]) > np.median(areas["random"])


def test_a_few_scores_anywhere_are_kept_for_looser_limits(device, make_problem) -> None:
    problem = make_problem(device, limit_ms=0.7, max_evaluations=30)
    load_searcher("surrogate").search(problem)
    assert (device.latencies(list(problem.scores))[0] > 0.7).any()


def test_another_limit_profits_from_what_is_known(make_device, make_problem) -> None:
    """A second search with few evaluations finds more than one of the same size from nothing."""
    gains = []
    for seed in SEEDS:
        device, first = search("random", seed, make_device, make_problem)
        second = make_problem(device, seed=9, max_evaluations=8, limit_ms=0.8, scores=dict(first.scores))
        load_searcher("surrogate").search(second)
        alone = make_problem(device, seed=9, max_evaluations=8, limit_ms=0.8)
        load_searcher("surrogate").search(alone)
        gains.append(device.true_accuracy(second.best_feasible()) - device.true_accuracy(alone.best_feasible()))
    assert np.median(gains) > 0


def test_smoothed_scores_are_nearer_to_the_truth(make_device, make_problem) -> None:
    device = make_device(seed=0, noise=0.03)
    space, rng = make_problem(device).space, np.random.default_rng(5)
    scores = {a: device.evaluate(a) for a in (space.sample(rng) for _ in range(80))}
    truth = np.array([device.true_accuracy(a) for a in scores])
    before = np.abs(np.array(list(scores.values())) - truth).mean()
    after = np.abs(np.array([smoothed(space, scores)[a] for a in scores]) - truth).mean()
    assert after < 0.85 * before


def test_too_few_scores_are_left_as_they_are(device, make_problem) -> None:
    space = make_problem(device).space
    scores = {space.smallest(): 0.5, space.largest(): 0.7}
    assert smoothed(space, scores) == scores
