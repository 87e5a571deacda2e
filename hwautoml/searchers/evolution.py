"""Variation of architectures as option indices, shared by the searchers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.space import SearchSpace

Indices = NDArray[np.int64]


def mutate(space: SearchSpace, parents: Indices, rate: float, rng: np.random.Generator) -> Indices:
    """Redraw each choice of ``parents`` (n, num_choices) with probability ``rate``."""
    fresh = rng.integers(0, space.num_options, parents.shape)
    return np.where(rng.random(parents.shape) < rate, fresh, parents)


def cross(first: Indices, second: Indices, rng: np.random.Generator) -> Indices:
    """Uniform crossover of two (n, num_choices) arrays."""
    return np.where(rng.random(first.shape) < 0.5, first, second)
