"""What a searcher is given and what it gives back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.pareto import non_dominated
from hwautoml.core.space import Architecture, SearchSpace
from hwautoml.errors import InfeasibleLimitError

Latencies = Callable[[Sequence[Architecture]], tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Predicted latencies and their deviations, both (num_architectures,) in ms."""


@dataclass
class SearchProblem:
    """``evaluate`` is dear (a network is scored), ``latencies`` is cheap (a table is summed).

    ``scores`` holds every accuracy known so far, from earlier searches too; ``evaluate_once`` adds to it.
    """

    space: SearchSpace
    evaluate: Callable[[Architecture], float]
    latencies: Latencies
    limit_ms: float
    rng: np.random.Generator
    max_evaluations: int
    budget_sec: float
    scores: dict[Architecture, float] = field(default_factory=dict)
    on_progress: Callable[[int, int, str], None] | None = None
    started: float = field(default_factory=time.monotonic)
    num_evaluated: int = 0

    @property
    def is_over(self) -> bool:
        return self.num_evaluated >= self.max_evaluations or self.seconds >= self.budget_sec

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def share(self) -> float:
        """Of the evaluations or of the time, whichever is further."""
        return min(
            max(self.num_evaluated / max(self.max_evaluations, 1), self.seconds / max(self.budget_sec, 1e-9)), 1.0
        )

    def evaluate_once(self, architecture: Architecture) -> float:
        if architecture not in self.scores:
            self.scores[architecture] = self.evaluate(architecture)
            self.num_evaluated += 1
            if self.on_progress is not None:
                best = self.best_feasible()
                text = "none within the limit yet" if best is None else f"best within the limit {self.scores[best]:.1%}"
                self.on_progress(round(1000 * self.share), 1000, f"{self.num_evaluated} scored, {text}")
        return self.scores[architecture]

    def best_feasible(self) -> Architecture | None:
        known = list(self.scores)
        if not known:
            return None
        feasible = [a for a, ms in zip(known, self.latencies(known)[0], strict=True) if ms <= self.limit_ms]
        return max(feasible, key=lambda a: self.scores[a], default=None)


class Searcher(Protocol):
    def search(self, problem: SearchProblem) -> None:
        """Evaluate architectures until ``problem.is_over``; results are ``problem.scores``."""
        ...


def front(problem: SearchProblem) -> list[Architecture]:
    """The evaluated architectures on the accuracy-latency front, fastest first, whatever the limit."""
    known = list(problem.scores)
    if not known:
        return []
    means, _ = problem.latencies(known)
    values = np.column_stack([means, [-problem.scores[a] for a in known]])
    kept = np.flatnonzero(non_dominated(values))
    return [known[i] for i in kept[np.argsort(means[kept])]]


def fastest(space: SearchSpace, latencies: Latencies, rng: np.random.Generator) -> tuple[Architecture, float]:
    """The fastest architecture found by coordinate descent on the predicted latency, and its ms."""
    best = space.encode(space.smallest())
    starts = [best, *(rng.integers(0, space.num_options) for _ in range(30))]
    found = [space.decode(start) for start in starts]
    current = found[int(np.argmin(latencies(found)[0]))]
    value = float(latencies([current])[0][0])
    improved = True
    while improved:
        improved = False
        for index, options in enumerate(space.num_options):
            variants = []
            for option in range(int(options)):
                indices = space.encode(current)
                indices[index] = option
                variants.append(space.decode(indices))
            means = latencies(variants)[0]
            if means.min() < value - 1e-12:
                current, value, improved = variants[int(means.argmin())], float(means.min()), True
    return current, value


def require_feasible(space: SearchSpace, latencies: Latencies, limit_ms: float, rng: np.random.Generator) -> float:
    """The fastest predicted latency in ms.

    Raises:
        InfeasibleLimitError: nothing in the space is predicted to meet the limit.
    """
    architecture, milliseconds = fastest(space, latencies, rng)
    if milliseconds > limit_ms:
        raise InfeasibleLimitError(
            f"no network of {space.name} is predicted to run within {limit_ms:g} ms; "
            f"the fastest ({architecture.id}) takes {milliseconds:.3g} ms (predicted)",
            fix=f"--latency-ms {milliseconds * 1.25:.2g} or more, or a smaller --image-size",
        )
    return milliseconds
