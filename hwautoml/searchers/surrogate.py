"""Propose many, evaluate few: evolution on a Gaussian process's guess of what only an evaluation tells.

What is known of a network, such as its predicted latency, needs no surrogate. The rest is guessed by one Gaussian
process per objective on the encoded architecture, and each round evaluates the most promising architectures within the
limits and a few of the optimistic front, spread over the other objectives.
Source of the scheme: NSGANetV2 (Lu et al. 2020), with upper confidence bounds instead of a plain mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.network_costs import CostTable
from hwautoml.core.pareto import crowding_distance, non_dominated_rank
from hwautoml.core.space import Architecture, SearchSpace
from hwautoml.searchers.evolution import cross, mutate
from hwautoml.searchers.feasibility import nearest_to_limits
from hwautoml.searchers.gaussian_process import GaussianProcess, fit
from hwautoml.searchers.problem import SearchProblem, Values, encoded
from hwautoml.searchers.random import sample_feasible

INITIAL_SHARE = 0.3
BATCH = 4
POPULATION = 96
GENERATIONS = 12
OPTIMISM = 0.7  # standard deviations that a guess is better than expected
MIN_SCORES = 6
MAX_REPEATED = 20  # draws, until a space counts as known as a whole
NUM_ANALYTIC = 3


def search(problem: SearchProblem) -> None:
    features = Features(problem.space)
    _evaluate_initial(problem)
    num_repeated = 0
    while not problem.is_over:
        if len(problem.evaluated) < MIN_SCORES:
            # Fewer than that may be within the limits; the surrogate learns from others too.
            drawn = sample_feasible(problem)
            if problem.is_evaluated(drawn):
                drawn = problem.space.sample(problem.rng)
            num_repeated += problem.is_evaluated(drawn)
            if num_repeated > MAX_REPEATED:
                return
            problem.evaluate_once(drawn)
            continue
        proposals = _propose(problem, features)
        if not proposals:
            return
        for architecture in proposals:
            if problem.is_over:
                return
            problem.evaluate_once(architecture)


def _evaluate_initial(problem: SearchProblem) -> None:
    """The network furthest below the limits, then samples; a third of them anywhere, so that later, looser limits find
    data."""
    if len(problem.evaluated) >= MIN_SCORES:
        return
    problem.evaluate_once(nearest_to_limits(problem))
    wanted = max(MIN_SCORES, round(INITIAL_SHARE * problem.max_evaluations))
    for index in range(wanted):
        is_share_used = problem.share >= INITIAL_SHARE and len(problem.evaluated) >= MIN_SCORES  # of the time, too
        if problem.is_over or is_share_used:
            return
        is_anywhere = index % 3 == 0
        problem.evaluate_once(problem.space.sample(problem.rng) if is_anywhere else sample_feasible(problem))


@dataclass(frozen=True)
class Guess:
    """Optimistic values of architectures: what is known as it is, the rest by Gaussian processes."""

    problem: SearchProblem
    features: Features
    models: Mapping[int, GaussianProcess]  # by column

    @classmethod
    def of(cls, problem: SearchProblem, features: Features) -> Guess:
        minimised = problem.minimised
        is_whole = np.asarray(~np.isnan(minimised).any(axis=1))
        inputs = features.of([a for a, whole in zip(problem.evaluated, is_whole, strict=True) if whole])
        learned = [int(column) for column in np.flatnonzero(problem.is_learned)] if is_whole.sum() >= 2 else []
        return cls(problem, features, {c: fit(inputs, minimised[is_whole, c], NUM_ANALYTIC) for c in learned})

    def __call__(self, architectures: list[Architecture]) -> Values:
        """(n, num_objectives), minimised."""
        values = self.problem.foreseen(architectures)
        inputs = self.features.of(architectures)
        for column, model in self.models.items():
            mean, deviation = model.predict(inputs)
            values[:, column] = mean - OPTIMISM * deviation
        return np.nan_to_num(values, nan=0.0)  # nothing that was evaluated says anything


def _propose(problem: SearchProblem, features: Features) -> list[Architecture]:
    """Up to BATCH new architectures of the optimistic front within the limits."""
    space, rng = problem.space, problem.rng
    guess = Guess.of(problem, features)
    population = encoded(space, _seeds(problem))
    pool: dict[Architecture, Values] = {}
    for _ in range(GENERATIONS):
        first, second = (population[rng.integers(0, len(population), POPULATION)] for _ in range(2))
        children = mutate(space, cross(first, second, rng), 1.5 / population.shape[1], rng)
        fresh = [a for a in {space.decode(c): None for c in children} if a not in pool]
        if fresh:
            values = guess(fresh)
            within = problem.is_within(np.where(problem.is_learned, np.nan, values))
            pool |= {a: row for a, row, is_within in zip(fresh, values, within, strict=True) if is_within}
        if not pool:
            population = np.array([space.encode(space.sample(rng)) for _ in range(POPULATION)])
            continue
        candidates = list(pool)
        kept = _best(problem, np.array(list(pool.values())), POPULATION // 2)
        pool = {candidates[i]: pool[candidates[i]] for i in kept}
        population = encoded(space, list(pool))
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
    features = Features(space)
    model = fit(features.of(known), np.array([scores[a] for a in known]), NUM_ANALYTIC)
    return model.predict(features.of(architectures))[0]


def _seeds(problem: SearchProblem) -> list[Architecture]:
    """What is best in what was learned, of everything evaluated within the limits."""
    known, minimised = problem.evaluated, problem.minimised
    within = problem.is_within(np.where(problem.is_learned, np.nan, minimised))
    chosen = np.flatnonzero(within) if within.any() else np.arange(len(known))
    columns = problem.is_learned if problem.is_learned.any() else np.ones_like(problem.is_learned)
    order = np.argsort(non_dominated_rank(minimised[chosen][:, columns]), kind="stable")
    return [known[i] for i in chosen[order[: POPULATION // 3]]]


def _ranks(problem: SearchProblem, values: Values) -> tuple[Values, NDArray[np.int64]]:
    """By how much guesses miss a limit, (n,), which counts first; and their ranks, (n,)."""
    excess = np.maximum(np.where(problem.is_learned, values - problem.limits, -np.inf), 0.0)
    return excess.sum(axis=1), non_dominated_rank(values)


def _best(problem: SearchProblem, values: Values, count: int) -> NDArray[np.int64]:
    """Indices of the ``count`` best by limits, then rank, then crowding; values (n, num_objectives), minimised."""
    excess, ranks = _ranks(problem, values)
    crowding = np.zeros(len(values))
    for rank in range(int(ranks.max()) + 1):
        members = ranks == rank
        crowding[members] = crowding_distance(values[members])
    return np.lexsort((-crowding, ranks, excess))[:count]


def _spread(problem: SearchProblem, pool: Mapping[Architecture, Values]) -> list[Architecture]:
    """New members of the pool: half the best guesses of the first objective, half evenly over the others on its
    front."""
    fresh = [a for a in pool if not problem.is_evaluated(a)]
    if not fresh:
        return []
    values = np.array([pool[a] for a in fresh])
    excess, ranks = _ranks(problem, values)
    others = values[:, 1:] if values.shape[1] > 1 else values
    leaders = np.lexsort((others[:, 0], ranks, excess))[: max(BATCH * 3, 1)]
    chosen = [int(i) for i in np.lexsort((values[:, 0], excess))[: BATCH // 2]]
    leaders = np.union1d(leaders, chosen)
    extent = np.maximum(np.ptp(others, axis=0), 1e-12)
    while len(chosen) < min(BATCH, len(leaders)):
        gaps = (np.abs(others[leaders][:, None] - others[chosen][None]) / extent).max(2).min(1)
        gaps[np.isin(leaders, chosen)] = -1.0
        chosen.append(int(leaders[np.argmax(gaps)]))
    return [fresh[i] for i in chosen]


@dataclass(frozen=True)
class Features:
    """What the Gaussian process sees of a network; build it once per space, it keeps the layers' costs."""

    space: SearchSpace

    def of(self, architectures: list[Architecture]) -> Values:
        """(n, NUM_ANALYTIC + num_options): log MACs, log parameters and kernel count, then one-hot options."""
        indices = encoded(self.space, architectures)
        costs = self._costs.costs(indices)
        options = [np.eye(n)[column] for n, column in zip(self.space.num_options, indices.T, strict=True)]
        analytic = np.stack([np.log(costs.macs), np.log(costs.parameters), costs.num_kernels], axis=1)
        return np.concatenate([analytic, *options], axis=1)

    @cached_property
    def _costs(self) -> CostTable:
        return CostTable(self.space)
