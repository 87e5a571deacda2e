"""Propose many, evaluate few: evolution on a Gaussian process's guess of the accuracy.

Latency needs no surrogate, the table predicts it. Accuracy is guessed by a Gaussian process on the
encoded architecture, and each round evaluates the most promising architectures within the limit
and a few of the optimistic front, spread over the latencies.
Source of the scheme: NSGANetV2 (Lu et al. 2020), with upper confidence bounds instead of a plain mean.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.pareto import crowding_distance, non_dominated_rank
from hwautoml.core.space import Architecture, SearchSpace
from hwautoml.searchers.evolution import cross, mutate
from hwautoml.searchers.gaussian_process import fit
from hwautoml.searchers.problem import SearchProblem, fastest
from hwautoml.searchers.random import sample_feasible

INITIAL_SHARE = 0.3
BATCH = 4
POPULATION = 96
GENERATIONS = 12
OPTIMISM = 0.7  # standard deviations added to the guessed accuracy
MIN_SCORES = 6
NUM_ANALYTIC = 3


def search(problem: SearchProblem) -> None:
    _evaluate_initial(problem)
    while not problem.is_over:
        if len(problem.scores) < MIN_SCORES:
            # Fewer than that may be within the limit; the surrogate learns from others too.
            drawn = sample_feasible(problem)
            problem.evaluate_once(problem.space.sample(problem.rng) if drawn in problem.scores else drawn)
            continue
        proposals = _propose(problem)
        if not proposals:
            return
        for architecture in proposals:
            if problem.is_over:
                return
            problem.evaluate_once(architecture)


def _evaluate_initial(problem: SearchProblem) -> None:
    """The fastest network, then samples; a third of them anywhere, so that a later, looser limit finds data."""
    if len(problem.scores) >= MIN_SCORES:
        return
    problem.evaluate_once(fastest(problem.space, problem.latencies, problem.rng)[0])
    wanted = max(MIN_SCORES, round(INITIAL_SHARE * problem.max_evaluations))
    for index in range(wanted):
        is_share_used = problem.share >= INITIAL_SHARE and len(problem.scores) >= MIN_SCORES  # of the time, too
        if problem.is_over or is_share_used:
            return
        is_anywhere = index % 3 == 0
        problem.evaluate_once(problem.space.sample(problem.rng) if is_anywhere else sample_feasible(problem))


def _propose(problem: SearchProblem) -> list[Architecture]:
    """Up to BATCH new architectures of the optimistic front within the limit."""
    space, rng = problem.space, problem.rng
    known = list(problem.scores)
    model = fit(_features(space, known), np.array([problem.scores[a] for a in known]), NUM_ANALYTIC)
    population = np.array([space.encode(a) for a in _seeds(problem)], dtype=np.int64)
    pool: dict[Architecture, tuple[float, float]] = {}
    for _ in range(GENERATIONS):
        first, second = (population[rng.integers(0, len(population), POPULATION)] for _ in range(2))
        children = mutate(space, cross(first, second, rng), 1.5 / population.shape[1], rng)
        fresh = [a for a in {space.decode(c): None for c in children} if a not in pool]
        if fresh:
            means, _ = problem.latencies(fresh)
            mean, deviation = model.predict(_features(space, fresh))
            for architecture, ms, guess in zip(fresh, means, mean + OPTIMISM * deviation, strict=True):
                if ms <= problem.limit_ms:
                    pool[architecture] = (float(ms), -float(guess))
        if not pool:
            population = np.array([space.encode(space.sample(rng)) for _ in range(POPULATION)])
            continue
        candidates = list(pool)
        values = np.array([pool[a] for a in candidates])
        kept = _best(values, POPULATION // 2)
        pool = {candidates[i]: pool[candidates[i]] for i in kept}
        population = np.array([space.encode(a) for a in pool], dtype=np.int64)
    return _spread(problem, pool)


def smoothed(space: SearchSpace, scores: Mapping[Architecture, float]) -> dict[Architecture, float]:
    """Scores as the surrogate sees them, after the noise of a small validation set.

    The best of many noisy scores is mostly the luckiest; what similar architectures reached tells the two apart.
    """
    known = list(scores)
    if len(known) < MIN_SCORES:
        return dict(scores)
    return dict(zip(known, map(float, guessed(space, scores, known)), strict=True))


def guessed(
    space: SearchSpace, scores: Mapping[Architecture, float], architectures: list[Architecture]
) -> NDArray[np.float64]:
    """(num_architectures,): what the surrogate expects of them; the same of all from fewer than two ``scores``."""
    known = list(scores)
    if len(known) < 2:
        return np.zeros(len(architectures))
    model = fit(_features(space, known), np.array([scores[a] for a in known]), NUM_ANALYTIC)
    return model.predict(_features(space, architectures))[0]


def _seeds(problem: SearchProblem) -> list[Architecture]:
    known = list(problem.scores)
    means, _ = problem.latencies(known)
    feasible = [a for a, ms in zip(known, means, strict=True) if ms <= problem.limit_ms] or known
    return sorted(feasible, key=lambda a: -problem.scores[a])[: POPULATION // 3]


def _best(values: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Indices of the ``count`` best by rank, then crowding; values (n, 2), lower is better."""
    ranks = non_dominated_rank(values)
    crowding = np.zeros(len(values))
    for rank in range(int(ranks.max()) + 1):
        members = ranks == rank
        crowding[members] = crowding_distance(values[members])
    return np.lexsort((-crowding, ranks))[:count]


def _spread(problem: SearchProblem, pool: dict[Architecture, tuple[float, float]]) -> list[Architecture]:
    """New members of the pool: half the most accurate guesses, half evenly over the latencies of its front."""
    fresh = [a for a in pool if a not in problem.scores]
    if not fresh:
        return []
    values = np.array([pool[a] for a in fresh])
    order = np.lexsort((values[:, 0], non_dominated_rank(values)))
    leaders = order[: max(BATCH * 3, 1)]
    chosen = [int(i) for i in np.argsort(values[:, 1])[: BATCH // 2]]
    leaders = np.union1d(leaders, chosen)
    while len(chosen) < min(BATCH, len(leaders)):
        gaps = np.abs(values[leaders, 0][:, None] - values[chosen, 0][None]).min(1)
        gaps[np.isin(leaders, chosen)] = -1.0
        chosen.append(int(leaders[np.argmax(gaps)]))
    return [fresh[i] for i in chosen]


def _features(space: SearchSpace, architectures: list[Architecture]) -> NDArray[np.float64]:
    """(n, NUM_ANALYTIC + num_options): log MACs, log parameters and kernel count, then one-hot options."""
    indices = np.array([space.encode(a) for a in architectures])
    one_hot = np.concatenate(
        [np.eye(n)[column] for n, column in zip(space.num_options, indices.T, strict=True)], axis=1
    )
    costs = [space.total_cost(a) for a in architectures]
    analytic = np.array([[np.log(c.macs), np.log(c.parameters), c.num_kernels] for c in costs])
    return np.concatenate([analytic, one_hot], axis=1)
