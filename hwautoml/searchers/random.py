"""Baseline: uniform sampling of architectures that are predicted to meet the limit."""

from __future__ import annotations

from hwautoml.core.space import Architecture
from hwautoml.searchers.problem import SearchProblem, fastest

MAX_REJECTIONS = 2000


def search(problem: SearchProblem) -> None:
    while not problem.is_over:
        architecture = sample_feasible(problem)
        if architecture in problem.scores and problem.space.size <= len(problem.scores):
            return
        problem.evaluate_once(architecture)


def sample_feasible(problem: SearchProblem) -> Architecture:
    """Rejection sampling with an end: after 2000 misses, a mutation of the fastest network."""
    for _ in range(MAX_REJECTIONS // 50):
        drawn = [problem.space.sample(problem.rng) for _ in range(50)]
        means, _ = problem.latencies(drawn)
        for architecture, milliseconds in zip(drawn, means, strict=True):
            if milliseconds <= problem.limit_ms and architecture not in problem.scores:
                return architecture
    return fastest(problem.space, problem.latencies, problem.rng)[0]
