"""Baseline: uniform sampling of architectures that are predicted to meet the limit."""

from __future__ import annotations

import numpy as np

from hwautoml.core.space import Architecture
from hwautoml.searchers.evolution import mutate
from hwautoml.searchers.problem import SearchProblem, fastest

MAX_REJECTIONS = 2000


def search(problem: SearchProblem) -> None:
    while not problem.is_over:
        architecture = sample_feasible(problem)
        if architecture in problem.scores:
            return  # whatever is within the limit is known
        problem.evaluate_once(architecture)


def sample_feasible(problem: SearchProblem) -> Architecture:
    """Rejection sampling with an end: after 2000 misses a mutation of the fastest network, or itself if none is new."""
    space, rng = problem.space, problem.rng
    for _ in range(MAX_REJECTIONS // 50):
        found = _first_new(problem, [space.sample(rng) for _ in range(50)])
        if found is not None:
            return found
    best = fastest(space, problem.latencies, rng)[0]
    parents = np.tile(space.encode(best), (MAX_REJECTIONS // 4, 1))
    mutants = [space.decode(child) for child in mutate(space, parents, 1.5 / parents.shape[1], rng)]
    return _first_new(problem, mutants) or best


def _first_new(problem: SearchProblem, drawn: list[Architecture]) -> Architecture | None:
    means, _ = problem.latencies(drawn)
    for architecture, milliseconds in zip(drawn, means, strict=True):
        if milliseconds <= problem.limit_ms and architecture not in problem.scores:
            return architecture
    return None
