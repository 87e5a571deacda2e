"""How far a supernet's scores may choose, and what is gone by where they may not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.plan import trust_in_ranking
from hwautoml.core.space import Architecture, SearchSpace
from hwautoml.pipeline.runs.context import RunContext
from hwautoml.pipeline.runs.outcomes import Trained

PROBES = 0.9  # of equally good members the larger one has more to gain from its own training


def trust_of(run: RunContext) -> float:
    """0..1: how far the supernet's scores may choose between small and large members; 0 while it is not trained."""
    trained = run.journal.outcome(Trained) or Trained()
    return PROBES if trained.is_pretrained else trust_in_ranking(trained.epochs)


def promise(
    space: SearchSpace, scores: NDArray[np.float64], architectures: Sequence[Architecture], trust: float
) -> NDArray[np.float64]:
    """(num_architectures,): their scores as far as the supernet can be trusted, and for the rest their capacity.

    Capacity is the product of multiply-accumulates and parameters, each of which ranks networks about as well as any
    other figure that needs no training (White et al. 2022, "A deeper look at zero-cost proxies"). Among networks that
    train equally fast it favours those whose operations the machine does best. Both in standard deviations.
    """
    costs = [space.total_cost(a) for a in architectures]
    capacity = np.log([c.macs for c in costs]) + np.log([c.parameters for c in costs])
    return trust * _standardised(scores) + (1 - trust) * _standardised(capacity)


def _standardised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return (values - values.mean()) / max(float(values.std()), 1e-9)
