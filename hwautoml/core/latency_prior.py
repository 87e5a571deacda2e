"""Table entries that nobody measured: inferred from measured ones, or estimated from a datasheet."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.layer import Layer, LayerCost
from hwautoml.core.layer_regression import MIN_LAYERS, LayerRegression
from hwautoml.core.observation import Entry
from hwautoml.core.table_identity import TableIdentity
from hwautoml.core.target import Target
from hwautoml.errors import InvalidValueError

logger = logging.getLogger(__name__)

_MIN_DEVIATION = 0.02  # relative; even the same layer at another resolution has its peculiarities
_MAX_DEVIATION = 1.0
_MAX_OF_ALL_KINDS = 200
_WILD = 5.0  # robust standard deviations from what similar layers take
_MIN_SPREAD = 0.15  # of log time: where a regression fits better than that, a layer may still have its peculiarities
_MAX_ROUNDS = 6  # of leaving out what is wild; two or three settle it
_ELEMENT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
# Wall time to start one kernel: a function call and a thread barrier on a CPU, a launch through the driver on a GPU
# (about 5 us on CUDA), the same at an eighth of the clock on small boards.
_LAUNCH_MS = {"cpu": 0.002, "gpu": 0.006, "edge": 0.01}
_ATTAINABLE = 0.35  # of the peak; small convolutions reach 20 to 60 % (Williams et al. 2009 is the upper bound)
_ROOFLINE_DEVIATION = 0.5


def infer_entries(
    measured: Mapping[str, Entry], unmeasured: Sequence[str], costs: Mapping[str, LayerCost]
) -> dict[str, Entry]:
    """Entries for the keys ``unmeasured``, from the measured layers of the same kind (``LayerRegression``).

    A kind with fewer than 8 measured layers is inferred from all kinds, with twice the deviation, as it may
    differ from the others. ``costs`` must have every key of both.

    Raises:
        InvalidValueError: nothing was measured.
    """
    if not unmeasured:
        return {}
    if not measured:
        raise InvalidValueError("entries can only be inferred from measured ones, and there is none")
    inferred, known = {}, _by_kind(measured)
    for kind, keys in _by_kind(unmeasured).items():
        has_own = len(known.get(kind, ())) >= MIN_LAYERS
        regression = _trusting_regression(known[kind] if has_own else _some(list(measured)), measured, costs)
        for key, mean_ms, deviation in zip(keys, *regression.predict(keys), strict=True):
            relative = max(float(deviation), _MIN_DEVIATION) * (1 if has_own else 2)
            inferred[key] = Entry(float(mean_ms), min(relative, _MAX_DEVIATION) * float(mean_ms), "inferred")
    return inferred


def doubt_wild_entries(measured: Mapping[str, Entry], costs: Mapping[str, LayerCost]) -> dict[str, Entry]:
    """``measured``, where an entry far from what the other layers of its kind suggest says so by its deviation.

    Nearly zero, or many times too high: something may have gone wrong, or the layer is peculiar. Its deviation
    grows to cover both, and how unsure the suggestion is, so that whole networks decide, and are chosen to. Kinds with
    fewer than 8 measured layers are compared with all kinds, at four times the spread.
    """
    if len(measured) < MIN_LAYERS:
        return dict(measured)
    doubted = dict(measured)
    for keys in _by_kind(measured).values():
        has_own = len(keys) >= MIN_LAYERS
        regression = _trusting_regression(keys if has_own else _some(list(measured)), measured, costs)
        limit = _wild_limit(regression) * (1 if has_own else 4)
        for key, suggested_ms in _suggestions(regression, keys).items():
            entry = measured[key]
            if abs(math.log(entry.mean_ms / suggested_ms)) > limit:
                logger.warning(
                    "%s took %.3g ms where similar layers suggest %.3g ms: its entry is in doubt by as much",
                    key,
                    entry.mean_ms,
                    suggested_ms,
                )
                unsure_ms = suggested_ms * math.expm1(min(limit / _WILD, 1.0))  # of the suggestion itself
                deviation_ms = math.hypot(entry.deviation_ms, suggested_ms - entry.mean_ms, unsure_ms)
                doubted[key] = replace(entry, deviation_ms=deviation_ms)
    return doubted


def _by_kind(keys: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key in keys:
        found.setdefault(Layer.from_key(key).kind, []).append(key)
    return found


def _some(keys: Sequence[str]) -> Sequence[str]:
    """Enough of all kinds to judge a rare one by."""
    return keys[:: max(len(keys) // _MAX_OF_ALL_KINDS, 1)]


def _trusting_regression(
    keys: Sequence[str], measured: Mapping[str, Entry], costs: Mapping[str, LayerCost]
) -> LayerRegression:
    """Of those layers that it does not find wild itself: a wild one may hide another until it is left out."""
    times = {key: measured[key].mean_ms for key in keys}
    regression = LayerRegression(times, costs)
    for _ in range(_MAX_ROUNDS):
        limit, suggested = _wild_limit(regression), _suggestions(regression, keys)
        trusted = {key: ms for key, ms in times.items() if abs(math.log(ms / suggested[key])) <= limit}
        if not trusted or trusted.keys() == regression.mean_ms.keys():
            break
        regression = LayerRegression(trusted, costs)
    return regression


def _suggestions(regression: LayerRegression, keys: Sequence[str]) -> dict[str, float]:
    """Milliseconds by the other layers of the regression alone: what it was fitted to says nothing of itself."""
    suggested = dict(zip(keys, map(float, regression.predict(keys)[0]), strict=True))
    for (key, ms), residual in zip(regression.mean_ms.items(), regression.left_out, strict=True):
        if key in suggested:
            suggested[key] = ms / math.exp(float(residual))
    return suggested


def _wild_limit(regression: LayerRegression) -> float:
    """Of residuals of log time, by the spread of the others, which a few wild ones do not change."""
    return _WILD * max(1.4826 * float(np.median(np.abs(regression.left_out))), _MIN_SPREAD)


def roofline_table(target: Target, layers: Iterable[tuple[Layer, LayerCost]], identity: TableIdentity) -> LatencyTable:
    """A table without any measurement: per layer the slower of arithmetic and memory, plus kernel launches.

    Peak FLOP/s (at a third, which small layers attain) and bandwidth are the target's datasheet
    figures (Williams, Waterman & Patterson 2009). Good for ranking, off by a factor in level: deviations are
    wide and every entry is "estimated". ``layers`` come with their cost at batch 1, in fp32.

    Raises:
        InvalidValueError: the target does not support the precision.
    """
    if identity.precision not in target.precisions:
        raise InvalidValueError(
            f"target {target.name!r} computes in {target.precisions}, not in {identity.precision!r}"
        )
    batch, launch_ms = identity.batch, _LAUNCH_MS[target.kind]
    entries = {}
    for layer, cost in layers:
        arithmetic_ms = 2 * cost.macs * batch / (target.peak_gflops * _ATTAINABLE * 1e6)
        bytes_moved = cost.bytes_moved * batch * _ELEMENT_BYTES[identity.precision] / 4
        memory_ms = bytes_moved / (target.bandwidth_gb_s * 1e6)
        mean_ms = max(arithmetic_ms, memory_ms) + cost.num_kernels * launch_ms
        entries[identity.key(layer)] = Entry(mean_ms, _ROOFLINE_DEVIATION * mean_ms, "estimated")
    return LatencyTable(
        identity,
        dict(sorted(entries.items())),
        overhead=Entry(launch_ms * 5, launch_ms * 5, "estimated"),
        conditions={"source": "roofline from the target's datasheet figures"},
    )
