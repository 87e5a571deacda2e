"""What a layer that was not measured probably takes, from those that were: a Gaussian process.

log(ms) ~ mean + linear in the features + a smooth function of them + noise, the features being logarithms of the
layer's work and shape, standardised (Rasmussen & Williams 2006: algorithm 2.1, leave-one-out in section 5.4.2).
The strengths of smooth part and noise, and the length scale, maximise the marginal likelihood over a grid.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.layer import Layer, LayerCost

Array = NDArray[np.float64]

MIN_LAYERS = 8  # to choose the grid's point by; below, the spread is assumed
_ASSUMED_ERROR = math.log(1.5)
_LINEAR = 4.0  # variances are relative to that of log(ms)
_GRID = tuple(itertools.product((0.5, 1.0, 2.0), (0.03, 0.3, 1.0), (0.0003, 0.002, 0.01)))  # length, smooth, noise
_PRIOR = (2.0, 0.3, 0.01)
_MAX_FOR_GRID = 150  # layers, taken evenly, are enough to choose its point by
_VECTOR_WIDTH = 16  # channels; layouts in blocks of 8 or 16 have kernels of their own


class LayerRegression:
    """Of measured layers (at least one): ``mean_ms`` by key. ``costs`` has every key that is asked about."""

    def __init__(self, mean_ms: Mapping[str, float], costs: Mapping[str, LayerCost]) -> None:
        self._costs, self.mean_ms = costs, dict(mean_ms)
        features = self._features(list(mean_ms))
        self._center, self._spread = features.mean(axis=0), features.std(axis=0)
        self._inputs = self._standardised(features)
        target = np.log(list(mean_ms.values()))
        self._mean, self._variance = float(target.mean()), max(float(target.var()), 1e-4)
        self._setting = self._chosen(target) if len(target) >= MIN_LAYERS else _PRIOR
        covariance = self._kernel(self._inputs, self._setting) + self._noise(self._setting) * np.eye(len(target))
        self._inverse = np.linalg.inv(covariance)
        self._weights = self._inverse @ (target - self._mean)
        #: (n,) measured minus predicted log(ms), each layer predicted from all others.
        self.left_out: Array = self._weights / np.diag(self._inverse)
        self._is_assumed = len(target) < MIN_LAYERS

    def predict(self, keys: Sequence[str]) -> tuple[Array, Array]:
        """Means (m,) in ms and relative standard deviations (m,)."""
        inputs = self._standardised(self._features(keys))
        cross = self._kernel(inputs, self._setting, self._inputs)
        own = self._variance * (1 + _LINEAR * np.square(inputs).mean(axis=1) + self._setting[1])
        explained = np.einsum("mn,nk,mk->m", cross, self._inverse, cross)
        deviation = np.sqrt(np.maximum(own - explained, 0.0) + self._noise(self._setting))
        if self._is_assumed:
            deviation = np.maximum(deviation, _ASSUMED_ERROR)
        return np.exp(self._mean + cross @ self._weights), deviation

    def _chosen(self, target: Array) -> tuple[float, float, float]:
        part = slice(None, None, max(len(target) // _MAX_FOR_GRID, 1))
        return max(_GRID, key=lambda s: self._log_likelihood(self._inputs[part], (target - self._mean)[part], s))

    def _log_likelihood(self, inputs: Array, centered: Array, setting: tuple[float, float, float]) -> float:
        covariance = self._kernel(inputs, setting) + self._noise(setting) * np.eye(len(centered))
        lower = np.linalg.cholesky(covariance)
        white = np.linalg.solve(lower, centered)
        return -0.5 * float(white @ white) - float(np.log(np.diag(lower)).sum())

    def _kernel(self, left: Array, setting: tuple[float, float, float], right: Array | None = None) -> Array:
        """(m, n) covariance of log(ms) without noise, the mean's own uncertainty included."""
        right = left if right is None else right
        length, smooth, _ = setting
        num = left.shape[1]
        linear = left @ right.T / num
        squares = np.square(left).mean(axis=1)[:, None] + np.square(right).mean(axis=1) - 2 * linear
        return self._variance * (1 + _LINEAR * linear + smooth * np.exp(-0.5 * np.maximum(squares, 0.0) / length**2))

    def _noise(self, setting: tuple[float, float, float]) -> float:
        return self._variance * setting[2]

    def _standardised(self, features: Array) -> Array:
        # A feature that never varied among the measured layers says nothing about its effect.
        return np.where(self._spread > 1e-6, (features - self._center) / np.maximum(self._spread, 1e-6), 0.0)

    def _features(self, keys: Sequence[str]) -> Array:
        return np.array([_features(Layer.from_key(key), self._costs[key]) for key in keys])


def _features(layer: Layer, cost: LayerCost) -> list[float]:
    work = (cost.macs, cost.bytes_moved, cost.num_kernels, layer.height * layer.width)
    shape = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.expansion, layer.stride)
    fills_vectors = (layer.in_channels % _VECTOR_WIDTH == 0, layer.out_channels % _VECTOR_WIDTH == 0)
    return [*(math.log(max(value, 1)) for value in work + shape), *map(float, fills_vectors)]
