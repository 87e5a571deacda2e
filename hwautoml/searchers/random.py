"""Baseline: uniform sampling of architectures that meet the limits, as far as that is known."""

from __future__ import annotations

import numpy as np

from hwautoml.core.space import Architecture
from hwautoml.searchers.evolution import mutate
from hwautoml.searchers.feasibility import nearest_to_limits
from hwautoml.searchers.problem import SearchProblem

MAX_REJECTIONS = 2000


def search(problem: SearchProblem) -> None:
    while not problem.is_over:
        architecture = sample_feasible(problem)
        if problem.is_evaluated(architecture):
            return  # whatever is within the limits is known
        problem.evaluate_once(architecture)


def sample_feasible(problem: SearchProblem) -> Architecture:
    """Rejection sampling with an end: after 2000 misses a mutation of the network nearest to the limits, or itself if
    none is new."""
    space, rng = problem.space, problem.rng
    for _ in range(MAX_REJECTIONS // 50):
        found = _first_new(problem, [space.sample(rng) for _ in range(50)])
        if found is not None:
            return found
    best = nearest_to_limits(problem)
    parents = np.tile(space.encode(best), (MAX_REJECTIONS // 4, 1))
    mutants = [space.decode(child) for child in mutate(space, parents, 1.5 / parents.shape[1], rng)]
    return _first_new(problem, mutants) or best


def _first_new(problem: SearchProblem, drawn: list[Architecture]) -> Architecture | None:
    within = problem.is_within(problem.foreseen(drawn))
    for architecture, is_within in zip(drawn, within, strict=True):
        if is_within and not problem.is_evaluated(architecture):
            return architecture
    return None
