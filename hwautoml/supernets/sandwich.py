"""Which members a training step runs: the sandwich rule, within reach of a limit.

The sandwich rule (Yu & Huang 2019) trains the largest, the smallest and random members, which bounds
all others. Members far beyond the limit cost the most and are never chosen, so the largest is
the largest *within reach*: shrunk at random until it is, differently in each step.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hwautoml.core.space import Architecture, SearchSpace

MAX_DRAWS = 8


class Sandwich:
    """``is_within_reach`` is asked for a member at a time; by default every member is."""

    def __init__(self, space: SearchSpace, is_within_reach: Callable[[Architecture], bool] = lambda _: True) -> None:
        self.space, self.is_within_reach = space, is_within_reach
        self._kinds = np.array([not choice.is_ordered for choice in space.choices])

    def largest(self, rng: np.random.Generator) -> Architecture:
        """What is not ordered (kinds of blocks) is drawn anew, so that every kind is trained at full size."""
        return self._shrunk(self._with_random_kinds(self.space.num_options - 1, rng), rng)

    def smallest(self, rng: np.random.Generator) -> Architecture:
        return self.space.decode(self._with_random_kinds(np.zeros_like(self.space.num_options), rng))

    def random(self, rng: np.random.Generator) -> Architecture:
        for _ in range(MAX_DRAWS):
            architecture = self.space.sample(rng)
            if self.is_within_reach(architecture):
                return architecture
        return self._shrunk(self.space.encode(architecture), rng)

    def _with_random_kinds(self, indices: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.where(self._kinds, rng.integers(0, self.space.num_options), indices)

    def _shrunk(self, indices: np.ndarray, rng: np.random.Generator) -> Architecture:
        """One random choice a step smaller at a time, until within reach or nothing is left to shrink."""
        indices = indices.copy()
        architecture = self.space.decode(indices)
        while not self.is_within_reach(architecture):
            larger = np.flatnonzero((indices > 0) & ~self._kinds)
            if not len(larger):
                break
            indices[rng.choice(larger)] -= 1
            architecture = self.space.decode(indices)
        return architecture
