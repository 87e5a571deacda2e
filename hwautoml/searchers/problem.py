"""What a searcher is given and what it gives back.

A searcher sees ``objectives`` as columns. Of every architecture of the space some of their values are known at once
(``known``: costs, predicted latencies), and the others only once it is evaluated, which is dear. Inside searchers all
values are *minimised*: those to be maximised are negated, so that lower is better in every column.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.objective import Objective
from hwautoml.core.pareto import non_dominated
from hwautoml.core.space import Architecture, SearchSpace
from hwautoml.errors import InvalidValueError

Values = NDArray[np.float64]
Known = Callable[[NDArray[np.int64]], tuple[Values, Values]]
"""Values and their standard deviations, both (n, num_objectives), of option indices (n, num_choices); NaN in the
columns of objectives that only an evaluation tells."""


@dataclass
class SearchProblem:
    """``evaluate`` is dear (a network is scored) and returns a raw outcome, which nothing here looks into; ``score``
    turns one into values (num_objectives,), NaN where it says nothing. What it does say counts more than what is known.

    ``objectives``: the first is what the best network is best in, the others are what it is traded against; any may
    have a limit. ``outcomes`` holds everything evaluated so far, by earlier searches too, perhaps for other objectives;
    ``evaluate_once`` adds to it.

    Raises:
        InvalidValueError: no objectives, or two of one name.
    """

    space: SearchSpace
    objectives: tuple[Objective, ...]
    known: Known
    evaluate: Callable[[Architecture], Any]
    score: Callable[[Any], Values]
    rng: np.random.Generator
    max_evaluations: int
    budget_sec: float
    outcomes: dict[Architecture, Any] = field(default_factory=dict)
    on_progress: Callable[[int, int, str], None] | None = None
    started: float = field(default_factory=time.monotonic)
    num_evaluated: int = 0
    _rows: dict[Architecture, Values] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        names = [objective.name for objective in self.objectives]
        if not names or len(set(names)) != len(names):
            raise InvalidValueError(f"a search needs objectives of different names, got {', '.join(names) or 'none'}")
        self._add_rows(list(self.outcomes))

    # How far it is.

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

    # What is to be reached.

    @cached_property
    def signs(self) -> Values:
        """(num_objectives,): values times these are to be minimised."""
        return np.array([objective.sign for objective in self.objectives])

    @cached_property
    def limits(self) -> Values:
        """(num_objectives,), minimised; infinite where there is none."""
        return np.array([objective.minimised_limit for objective in self.objectives])

    @cached_property
    def is_learned(self) -> NDArray[np.bool_]:
        """(num_objectives,): whether only an evaluation tells the value."""
        return np.isnan(self.known(self.space.encode(self.space.smallest())[None])[0][0])

    # What is known of architectures that need not have been evaluated.

    def foreseen(self, architectures: Sequence[Architecture]) -> Values:
        """(n, num_objectives), minimised; NaN in columns that only an evaluation tells."""
        return self.signs * self.known(encoded(self.space, architectures))[0]

    def is_within(self, minimised: Values) -> NDArray[np.bool_]:
        """(n,): whether rows of ``minimised`` (n, num_objectives) miss no limit; what is NaN misses none."""
        return np.asarray(~(minimised > self.limits).any(axis=1))

    # What was evaluated.

    @property
    def evaluated(self) -> list[Architecture]:
        """In the order of the evaluations, those of earlier searches first."""
        return list(self._rows)

    @property
    def values(self) -> Values:
        """(num_evaluated, num_objectives) in the order of ``evaluated``, in the objectives' own directions."""
        return np.array(list(self._rows.values())).reshape(len(self._rows), len(self.objectives))

    @property
    def minimised(self) -> Values:
        """``values``, each to be minimised."""
        return self.signs * self.values

    def values_of(self, name: str) -> dict[Architecture, float]:
        """One objective's value of everything evaluated."""
        column = [objective.name for objective in self.objectives].index(name)
        return {architecture: float(row[column]) for architecture, row in self._rows.items()}

    def is_evaluated(self, architecture: Architecture) -> bool:
        return architecture in self._rows

    def evaluate_once(self, architecture: Architecture) -> Values:
        """Its values (num_objectives,); an architecture that is known is not evaluated again."""
        if architecture not in self._rows:
            self.outcomes[architecture] = self.evaluate(architecture)
            self._add_rows([architecture])
            self.num_evaluated += 1
            if self.on_progress is not None:
                self.on_progress(round(1000 * self.share), 1000, f"{self.num_evaluated} scored, {self._best_text()}")
        return self._rows[architecture]

    def best_feasible(self) -> Architecture | None:
        """The evaluated architecture that is best in the first objective among those that meet every limit."""
        if not self._rows:
            return None
        minimised = self.minimised
        is_met = (minimised <= self.limits).all(axis=1)
        if not is_met.any():
            return None
        return self.evaluated[int(np.where(is_met, minimised[:, 0], np.inf).argmin())]

    def _best_text(self) -> str:
        best = self.best_feasible()
        if best is None:
            return "none within the limit yet"
        return f"best within the limit {self.objectives[0].text(self._rows[best][0])}"

    def _add_rows(self, architectures: Sequence[Architecture]) -> None:
        if not architectures:
            return
        known, _ = self.known(encoded(self.space, architectures))
        for architecture, foreseen in zip(architectures, known, strict=True):
            told = self.score(self.outcomes[architecture])
            self._rows[architecture] = np.where(np.isnan(told), foreseen, told)


class Searcher(Protocol):
    """A module or an object that is found by name; see docs/extending/searcher.md."""

    def search(self, problem: SearchProblem) -> None:
        """Call ``problem.evaluate_once`` until ``problem.is_over``, or until nothing new is worth it.

        Every random number comes from ``problem.rng``, so that the same seed makes the same search. What is found is
        read from the problem (``front``, ``problem.best_feasible()``).
        """
        ...


def front(problem: SearchProblem) -> list[Architecture]:
    """The evaluated architectures on the front, whatever the limits: in a search for accuracy and latency the fastest
    first, in others those that are best in the second objective."""
    known = problem.evaluated
    minimised = problem.minimised
    kept = np.flatnonzero(non_dominated(minimised))
    order = np.lexsort(np.roll(minimised[kept], -1, axis=1).T[::-1])
    return [known[i] for i in kept[order]]


def encoded(space: SearchSpace, architectures: Sequence[Architecture]) -> NDArray[np.int64]:
    """Option indices (n, num_choices), for no architectures too."""
    encodings = np.array([space.encode(a) for a in architectures], dtype=np.int64)
    return encodings.reshape(len(architectures), len(space.choices))
