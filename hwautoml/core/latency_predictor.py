"""Latencies of many architectures at once: look-ups in two tables instead of sums over Python objects.

With k_1..k_s an architecture's layers (positions in ``space.all_layers()``, from ``space.layer_indices``), the
latency model's mean and variance (``latency_model.Posterior.latent``) are sums over layers and pairs of layers::

    mean     = m_0 + sum_i m[k_i]
    variance = C_00 + sum_i (C[k_i, k_i] + 2 C_0[k_i]) + 2 sum_{i<j} C[k_i, k_j]

with m the posterior's mean, C its covariance and 0 the overhead: exactly what ``LatencyTable.predict_many``
computes, in a hundredth of its time. A network has few layers, and C stays in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.space import Architecture, SearchSpace

Array = NDArray[np.float64]
Latencies = Callable[[NDArray[np.integer]], tuple[Array, Array]]
"""Predicted latencies of option indices (n, num_choices): means (n,) and standard deviations (n,) in ms."""

_CHUNK = 8192  # architectures at a time: what is in work stays in the cache


@dataclass(frozen=True)
class Predictor:
    """A table's predictions for encoded architectures of one space; build it once, it keeps its look-up tables.

    Raises:
        InvalidValueError: a layer of the space has no entry in the table, and no rule infers one.
    """

    table: LatencyTable
    space: SearchSpace

    def __post_init__(self) -> None:
        _ = self._sums

    def predict(self, encodings: NDArray[np.integer]) -> tuple[Array, Array]:
        """Means (n,) and standard deviations (n,) in ms for option indices (n, num_choices).

        Raises:
            InvalidValueError: see ``SearchSpace.checked_encodings``.
        """
        slots = self.space.layer_indices(encodings).T
        means, variances = np.empty(slots.shape[1]), np.empty(slots.shape[1])
        for start in range(0, slots.shape[1], _CHUNK):
            part = slice(start, start + _CHUNK)
            means[part], variances[part] = self._sums.of(np.ascontiguousarray(slots[:, part]))
        return self.table.with_residual(means, variances)

    @cached_property
    def _sums(self) -> _Sums:
        layers = self.space.all_layers()
        counts, doubt = self.table.design([(layer,) for layer in layers])
        # Each layer alone and, last, the overhead alone.
        counts[:, -1] = 0.0
        alone = np.vstack([counts, np.eye(1, counts.shape[1], counts.shape[1] - 1)])
        means, _ = self.table.posterior.latent(alone)
        covariance = self.table.posterior.covariance(alone)
        own = np.diag(covariance) + 2 * covariance[-1]
        return _Sums(
            offset=(float(means[-1]), float(covariance[-1, -1])),
            means=np.append(means[:-1], 0.0),
            variances=np.append(own[:-1], 0.0),
            doubts=np.append(np.sqrt(doubt), 0.0),
            pairs=2 * np.pad(covariance[:-1, :-1], (0, 1)),
        )


def latencies_of(space: SearchSpace, tables: Mapping[str, LatencyTable]) -> Latencies:
    """In each architecture's fastest form, ``tables`` being by form; for thousands of questions about the same tables.

    Raises:
        InvalidValueError: a layer of the space has no entry in a table, and no rule infers one.
    """
    predictors = [Predictor(table, space) for table in tables.values()]

    def latencies(encodings: NDArray[np.integer]) -> tuple[Array, Array]:
        predicted = np.array([predictor.predict(encodings) for predictor in predictors])  # (forms, 2, n)
        best, columns = predicted[:, 0].argmin(axis=0), np.arange(len(encodings))
        return predicted[best, 0, columns], predicted[best, 1, columns]

    return latencies


def fastest_forms(
    space: SearchSpace, tables: Mapping[str, LatencyTable], architectures: Sequence[Architecture]
) -> tuple[list[str], Array, Array]:
    """Predicted fastest form of each architecture (a key of ``tables``), its mean and its deviation in ms."""
    layers = [space.layers(a) for a in architectures]
    predicted = [table.predict_many(layers) for table in tables.values()]
    means, deviations = np.array([p[0] for p in predicted]), np.array([p[1] for p in predicted])
    best = means.argmin(0)
    names, columns = list(tables), np.arange(len(layers))
    return [names[i] for i in best], means[best, columns], deviations[best, columns]


@dataclass(frozen=True)
class _Sums:
    """What the formulas above add up. The last element of every array is a free slot's, zero."""

    offset: tuple[float, float]
    means: Array
    variances: Array
    doubts: Array
    pairs: Array

    def of(self, slots: NDArray[np.int64]) -> tuple[Array, Array]:
        """Means and variances (n,), what inferring layers adds included, for layers (num_slots, n)."""
        mean, variance, doubt = (values.take(slots).sum(axis=0) for values in (self.means, self.variances, self.doubts))
        flat, width = self.pairs.ravel(), len(self.pairs)
        for first in range(len(slots) - 1):
            row = slots[first] * width
            for second in slots[first + 1 :]:
                variance += flat.take(row + second)
        # Rounding may leave a little below zero where nothing is in doubt.
        return self.offset[0] + mean, np.maximum(self.offset[1] + variance, 0.0) + np.square(doubt)
