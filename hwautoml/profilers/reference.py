"""The network that every measuring call times as well, so that the machine's speed can be divided out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hwautoml.core.space import Architecture, SearchSpace

_POOL_SIZE = 512  # random architectures of which the most average one is the reference


def reference_architecture(space: SearchSpace) -> Architecture:
    """Of many random members the most average one, in its work and in the kinds of layers that do it.

    What slows a machine down (neighbours in its last cache, its clock) slows networks of different kinds and
    sizes to different degrees; dividing by an extreme one's time would put its peculiarities into every result.
    """
    rng = np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(_POOL_SIZE)]
    kinds = sorted({layer.kind for layer in space.all_layers()})
    features = np.array([_work(space, architecture, kinds) for architecture in drawn])
    scaled = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-9)
    return drawn[int(np.square(scaled).sum(axis=1).argmin())]


def _work(space: SearchSpace, architecture: Architecture, kinds: Sequence[str]) -> list[float]:
    """Logarithms of what it computes, holds and moves, and each kind's share of what is moved."""
    layers, total = space.layers(architecture), space.total_cost(architecture)
    moved = dict.fromkeys(kinds, 0.0)
    for layer in layers:
        moved[layer.kind] += space.cost(layer).bytes_moved / max(total.bytes_moved, 1)
    amounts = (total.macs, total.parameters, total.bytes_moved, total.num_kernels)
    return [*(math.log(max(amount, 1)) for amount in amounts), *moved.values()]
