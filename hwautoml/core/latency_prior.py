"""Table entries that nobody measured: inferred from measured ones, or estimated from a datasheet."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.latency_table import Entry, LatencyTable
from hwautoml.core.layer import Layer, LayerCost
from hwautoml.core.target import Target
from hwautoml.errors import InvalidValueError

logger = logging.getLogger(__name__)

_MIN_PER_KIND = 8  # measured layers that a kind needs for a regression of its own
_MIN_DEVIATION = 0.05  # relative; no regression on analytic cost is better than that
_MAX_DEVIATION = 1.0
_RIDGE = 1e-2
_WILD = 5.0  # robust standard deviations from what similar layers take
_MIN_SPREAD = 0.15  # of log time: where a regression fits better than that, a layer may still have its peculiarities
_ELEMENT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
# Wall time to start one kernel: a function call and a thread barrier on a CPU, a launch through the driver on a GPU
# (about 5 us on CUDA), the same at an eighth of the clock on small boards.
_LAUNCH_MS = {"cpu": 0.002, "gpu": 0.006, "edge": 0.01}
_ATTAINABLE = 0.35  # of the peak; small convolutions reach 20 to 60 % (Williams et al. 2009 is the upper bound)
_ROOFLINE_DEVIATION = 0.5


def infer_entries(
    measured: Mapping[str, Entry], unmeasured: Sequence[str], costs: Mapping[str, LayerCost]
) -> dict[str, Entry]:
    """Entries for the keys ``unmeasured`` by ridge regression of log time on log analytic cost.

    One regression per layer kind, one over all kinds where a kind has fewer than 8 measured
    layers (with twice the spread, as that kind may differ from the others). The deviation is the
    regression's leave-one-out error, widened by how far a layer lies outside the measured ones.
    ``costs`` must have every key of both.

    Raises:
        InvalidValueError: nothing was measured.
    """
    if not unmeasured:
        return {}
    if not measured:
        raise InvalidValueError("entries can only be inferred from measured ones, and there is none")
    regressions = {
        kind: _trusting_regression(keys, measured, costs)
        for kind, keys in _by_kind(measured).items() if len(keys) >= _MIN_PER_KIND
    }
    fallback = _trusting_regression(list(measured), measured, costs)
    inferred = {}
    for key in unmeasured:
        own = regressions.get(Layer.from_key(key).kind)
        mean_ms, relative = (own or fallback).predict(key)
        relative *= 1.0 if own else 2.0
        inferred[key] = Entry(mean_ms, min(relative, _MAX_DEVIATION) * mean_ms, "inferred")
    return inferred


def doubt_wild_entries(measured: Mapping[str, Entry], costs: Mapping[str, LayerCost]) -> dict[str, Entry]:
    """``measured``, where an entry far from what the other layers of its kind suggest says so by its deviation.

    Nearly zero, or many times too high: something may have gone wrong, or the layer is peculiar. Its deviation
    grows to cover both, so that whole networks decide, and are chosen to. Kinds with fewer than 8 measured layers are
    compared with all kinds, at four times the spread.
    """
    if len(measured) < _MIN_PER_KIND:
        return dict(measured)
    doubted, all_kinds = dict(measured), _trusting_regression(list(measured), measured, costs)
    for keys in _by_kind(measured).values():
        has_own = len(keys) >= _MIN_PER_KIND
        regression = _trusting_regression(keys, measured, costs) if has_own else all_kinds
        for key in keys:
            entry, suggested_ms = measured[key], regression.predict(key)[0]
            if not regression.is_wild(math.log(entry.mean_ms / suggested_ms) / (1 if has_own else 4)):
                continue
            logger.warning(
                "%s took %.3g ms where similar layers suggest %.3g ms: its entry is in doubt by as much",
                key, entry.mean_ms, suggested_ms,
            )
            deviation_ms = math.hypot(entry.deviation_ms, suggested_ms - entry.mean_ms)
            doubted[key] = replace(entry, deviation_ms=deviation_ms)
    return doubted


def _by_kind(keys: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key in keys:
        found.setdefault(Layer.from_key(key).kind, []).append(key)
    return found


def _trusting_regression(
    keys: list[str], measured: Mapping[str, Entry], costs: Mapping[str, LayerCost]
) -> _Regression:
    """Of those layers that the regression of all of them does not find wild."""
    first = _Regression(keys, measured, costs)
    trusted = [key for key, residual in zip(keys, first.left_out, strict=True) if not first.is_wild(residual)]
    return first if len(trusted) == len(keys) else _Regression(trusted, measured, costs)


class _Regression:
    """log(ms) ~ features, standardised, with a small ridge; works from a single measured layer on."""

    def __init__(self, keys: list[str], measured: Mapping[str, Entry], costs: Mapping[str, LayerCost]) -> None:
        features = np.array([_features(key, costs[key]) for key in keys])
        self._costs = costs
        self._center, self._spread = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
        design = self._standardise(features)
        target = np.log([measured[key].mean_ms for key in keys])
        ridge = _RIDGE * len(keys) * np.eye(design.shape[1])
        ridge[0, 0] = 1e-9  # the intercept is free
        self._inverse = np.linalg.inv(design.T @ design + ridge)
        self._weights = self._inverse @ design.T @ target
        leverage = np.minimum(np.einsum("nf,fg,ng->n", design, self._inverse, design), 0.9)
        self.left_out = (target - design @ self._weights) / (1.0 - leverage)  # residuals, each without its own layer
        # Too few layers to judge a fit by: assume a factor of 1.5.
        self._error = float(np.sqrt(np.mean(self.left_out**2))) if len(keys) >= _MIN_PER_KIND else math.log(1.5)

    def is_wild(self, residual: float) -> bool:
        """Of log time, by the spread of the others, which a few wild ones do not change."""
        spread = 1.4826 * float(np.median(np.abs(self.left_out)))
        return abs(residual) > _WILD * max(spread, _MIN_SPREAD)

    def predict(self, key: str) -> tuple[float, float]:
        """Mean in ms, relative standard deviation."""
        design = self._standardise(np.array([_features(key, self._costs[key])]))[0]
        leverage = float(design @ self._inverse @ design)
        relative = math.hypot(self._error * math.sqrt(1.0 + leverage), _MIN_DEVIATION)
        return math.exp(float(design @ self._weights)), relative

    def _standardise(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        scaled = (features - self._center) / self._spread
        # A feature that never varied among the measured layers says nothing about its effect.
        scaled = np.where(self._spread > 1e-6, scaled, 0.0)
        return np.hstack([np.ones((len(features), 1)), scaled])


def _features(key: str, cost: LayerCost) -> list[float]:
    layer = Layer.from_key(key)
    area = layer.height * layer.width
    return [
        math.log(max(cost.macs, 1)), math.log(max(cost.bytes_moved, 1)), math.log(area),
        math.log(layer.kernel_size), math.log(max(cost.num_kernels, 1)), math.log(layer.stride),
    ]


def roofline_table(
    target: Target, layers: Iterable[tuple[Layer, LayerCost]], *, space: str, runtime: str, batch: int, precision: str
) -> LatencyTable:
    """A table without any measurement: per layer the slower of arithmetic and memory, plus kernel launches.

    Peak FLOP/s (at a third, which small layers attain) and bandwidth are the target's datasheet
    figures (Williams, Waterman & Patterson 2009). Good for ranking, off by a factor in level: deviations are
    wide and every entry is "estimated". ``layers`` come with their cost at batch 1, in fp32.

    Raises:
        InvalidValueError: the target does not support the precision.
    """
    if precision not in target.precisions:
        raise InvalidValueError(f"target {target.name!r} computes in {target.precisions}, not in {precision!r}")
    table = LatencyTable(
        target.name, runtime, target.num_threads, batch, precision, space, entries={},
        overhead=Entry(_LAUNCH_MS[target.kind] * 5, _LAUNCH_MS[target.kind] * 5, "estimated"),
        conditions={"source": "roofline from the target's datasheet figures"},
    )
    entries = {}
    for layer, cost in layers:
        arithmetic_ms = 2 * cost.macs * batch / (target.peak_gflops * _ATTAINABLE * 1e6)
        memory_ms = cost.bytes_moved * batch * _ELEMENT_BYTES[precision] / 4 / (target.bandwidth_gb_s * 1e6)
        mean_ms = max(arithmetic_ms, memory_ms) + cost.num_kernels * _LAUNCH_MS[target.kind]
        entries[table.key(layer)] = Entry(mean_ms, _ROOFLINE_DEVIATION * mean_ms, "estimated")
    return LatencyTable(
        target.name, runtime, target.num_threads, batch, precision, space, dict(sorted(entries.items())),
        table.overhead, conditions=table.conditions,
    )
