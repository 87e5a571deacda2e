"""Analytic costs of many architectures at once: look-ups in one table per space instead of Python objects.

What ``SearchSpace.total_cost`` says of one architecture, for arrays of option indices.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.layer import LayerCost
from hwautoml.core.space import SearchSpace

Array = NDArray[np.float64]


@dataclass(frozen=True)
class NetworkCosts:
    """The figures of ``LayerCost``, each an array (n,): sums over a network's layers; of the peak, the largest."""

    macs: Array
    parameters: Array
    bytes_moved: Array
    peak_activation_bytes: Array
    num_kernels: Array
    depthwise_macs: Array


@dataclass(frozen=True)
class CostTable:
    """Every layer's cost in one space; build it once."""

    space: SearchSpace

    def costs(self, encodings: NDArray[np.integer]) -> NetworkCosts:
        """Of option indices (n, num_choices).

        Raises:
            InvalidValueError: see ``SearchSpace.checked_encodings``.
        """
        indices = self.space.layer_indices(encodings)
        return NetworkCosts(
            **{
                name: row.take(indices).max(axis=1, initial=0.0)
                if name == "peak_activation_bytes"
                else row.take(indices).sum(axis=1)
                for name, row in zip(_NAMES, self._by_layer, strict=True)
            }
        )

    @cached_property
    def _by_layer(self) -> Array:
        """(num_figures, num_layers + 1); the last column is a free slot's, zero."""
        costs = np.array([astuple(self.space.cost(layer)) for layer in self.space.all_layers()], dtype=np.float64)
        return np.pad(costs.T, ((0, 0), (0, 1)))


_NAMES = tuple(field.name for field in fields(LayerCost))
