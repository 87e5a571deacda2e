"""What the runtimes behind published latencies execute, as the terms of a latency model.

They are eager (or simulate one layer after the other), so in NAS-Bench-201 they also compute what nobody
uses: operations on dead edges (here layers of kind ``dead_...``), multiplications by zero for ``none``, and a
step for each ``skip_connect``. In the other spaces the terms are the space's layers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.latency_components import DEAD, Work, work_of
from hwautoml.core.layer import Layer, LayerCost
from hwautoml.core.space import SearchSpace, counts_of
from hwautoml.spaces.nasbench201 import NasBench201Space
from hwautoml.spaces.nasbench201_layers import NUM_CELLS, OPERATIONS, WIDTHS

Array = NDArray[np.float64]
_IDLE = ("none", "skip_connect")  # operations without a layer of their own


@dataclass(frozen=True)
class PublishedTerms:
    """``layers`` (p - 1,) in the order of the columns of ``counts`` (n, p), whose last column, the overhead, is 1."""

    layers: tuple[Layer, ...]
    work: Work
    counts: Array


def published_terms(space: SearchSpace, encodings: NDArray[np.integer]) -> PublishedTerms:
    """For option indices (n, num_choices); layers that none of them contains are left out."""
    layers, costs = space.all_layers(), [space.cost(layer) for layer in space.all_layers()]
    counts = space.layer_counts(encodings)
    if isinstance(space, NasBench201Space):
        dead = counts_of(space.dead_layer_indices(encodings), len(layers))
        idle, idle_counts = _idle_steps(space, encodings)
        counts = np.hstack([counts, dead, idle_counts])
        layers += tuple(replace(layer, kind=DEAD + layer.kind) for layer in layers) + idle
        costs = [*costs, *costs, *[LayerCost(0, 0, 0, 0, 0)] * len(idle)]
    used = np.flatnonzero(counts.any(axis=0))
    return PublishedTerms(
        tuple(layers[column] for column in used),
        work_of([costs[column] for column in used]),
        np.hstack([counts[:, used], np.ones((len(counts), 1))]).astype(np.float64),
    )


def _idle_steps(space: NasBench201Space, encodings: NDArray[np.integer]) -> tuple[tuple[Layer, ...], NDArray[np.int64]]:
    """Layers (k,) and how often each encoding has them (n, k)."""
    layers, columns = [], []
    for operation in _IDLE:
        in_cell = (space.checked_encodings(encodings) == OPERATIONS.index(operation)).sum(axis=1)
        for stage, width in enumerate(WIDTHS):
            side = space.image_size // 2**stage
            layers.append(Layer(operation, width, side, side, width, activation="none"))
            columns.append(NUM_CELLS * in_cell)
    return tuple(layers), np.stack(columns, axis=1)
