from __future__ import annotations

import numpy as np

from hwautoml.core.pareto import hypervolume
from hwautoml.searchers import load_searcher
from hwautoml.searchers.problem import SearchProblem
from hwautoml.searchers.surrogate import Features, smoothed
from hwautoml.testing.searchers import WORST_RECALL, SyntheticRun

LIMIT_MS = 1.0
SEEDS = (0, 1, 2)


def search(name: str, seed: int) -> tuple[SyntheticRun, SearchProblem]:
    run = SyntheticRun(seed)
    problem = run.problem(limits=[f"latency_ms<={LIMIT_MS}"], seed=seed, max_evaluations=40)
    load_searcher(name).search(problem)
    return run, problem


def best_accuracy(run: SyntheticRun, problem: SearchProblem) -> float:
    best = problem.best_feasible()
    assert best is not None
    return run.true_accuracy(best)


def test_the_surrogate_beats_random_search() -> None:
    """On the true accuracy of the best network found, and on the whole front within the limit."""
    best, areas = {}, {}
    for name in ("surrogate", "random"):
        found = [search(name, seed) for seed in SEEDS]
        best[name] = [best_accuracy(run, problem) for run, problem in found]
        areas[name] = [
            hypervolume(
                np.column_stack([run.latency_ms(p.evaluated), [-run.true_accuracy(a) for a in p.evaluated]]),
                (LIMIT_MS, -0.3),
            )
            for run, p in found
        ]
    assert np.median(best["surrogate"]) > np.median(best["random"]) + 0.01
    assert np.median(areas["surrogate"]) > np.median(areas["random"])


def test_three_objectives_are_searched_better_than_at_random() -> None:
    """Two of them learned: the volume that the front dominates."""
    volumes: dict[str, list[float]] = {"surrogate": [], "random": []}
    for seed, name in ((seed, name) for seed in SEEDS for name in volumes):
        problem = SyntheticRun(seed).problem(("accuracy", WORST_RECALL, "latency_ms"), seed=seed, max_evaluations=48)
        load_searcher(name).search(problem)
        volumes[name].append(hypervolume(problem.minimised, (-0.2, -0.1, 3.0)))
    assert np.median(volumes["surrogate"]) > np.median(volumes["random"])


def test_a_few_scores_anywhere_are_kept_for_looser_limits(run: SyntheticRun) -> None:
    problem = run.problem(limits=["latency_ms<=0.7"], max_evaluations=30)
    load_searcher("surrogate").search(problem)
    assert (run.latency_ms(problem.evaluated) > 0.7).any()


def test_another_limit_profits_from_what_is_known() -> None:
    """A second search with few evaluations finds more than one of the same size from nothing."""
    gains = []
    for seed in SEEDS:
        run, first = search("random", seed)
        second = run.problem(limits=["latency_ms<=0.8"], seed=9, max_evaluations=8, outcomes=dict(first.outcomes))
        load_searcher("surrogate").search(second)
        alone = run.problem(limits=["latency_ms<=0.8"], seed=9, max_evaluations=8)
        load_searcher("surrogate").search(alone)
        gains.append(best_accuracy(run, second) - best_accuracy(run, alone))
    assert np.median(gains) > 0


def test_smoothed_scores_are_nearer_to_the_truth() -> None:
    run, rng = SyntheticRun(seed=0, noise=0.03), np.random.default_rng(5)
    scores = {a: run.evaluate(a).accuracy for a in (run.space.sample(rng) for _ in range(80))}
    truth = np.array([run.true_accuracy(a) for a in scores])
    before = np.abs(np.array(list(scores.values())) - truth).mean()
    after = np.abs(np.array([smoothed(run.space, scores)[a] for a in scores]) - truth).mean()
    assert after < 0.85 * before


def test_too_few_scores_are_left_as_they_are(run: SyntheticRun) -> None:
    scores = {run.space.smallest(): 0.5, run.space.largest(): 0.7}
    assert smoothed(run.space, scores) == scores


def test_features_are_costs_and_options(run: SyntheticRun) -> None:
    members = [run.space.sample(np.random.default_rng(seed)) for seed in range(5)]
    found = Features(run.space).of(members)
    costs = [run.space.total_cost(a) for a in members]
    assert found[:, :3].tolist() == [[np.log(c.macs), np.log(c.parameters), c.num_kernels] for c in costs]
    assert found[:, 3:].sum(axis=1).tolist() == [len(run.space.choices)] * 5
    assert found.shape[1] == 3 + run.space.num_options.sum()
