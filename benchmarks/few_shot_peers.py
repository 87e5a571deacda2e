"""What few-shot latency prediction is compared with: each takes a device's measurements and predicts all networks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
RIDGES = np.logspace(-4, 3, 15)


def flops(work: Array, measured: NDArray[np.int64], latency_ms: Array) -> Array:
    """(n,) ms, a line through the measured ones; without two of them, multiply-accumulates as they are."""
    if len(measured) < 2:
        return work
    design = np.stack([np.ones(len(work)), work / work.mean()], axis=1)
    return np.asarray(design @ np.linalg.lstsq(design[measured], latency_ms, rcond=None)[0])


def ridge(features: Array, measured: NDArray[np.int64], latency_ms: Array) -> Array:
    """(n,) ms; features (n, p) standardised, intercept free, penalty by leave-one-out error (in closed form).

    A plain latency table when the features are counts of layers, sibling ridge when they are siblings' latencies.
    """
    scaled = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-12)
    known, offset = scaled[measured], float(latency_ms.mean())
    left, values, right = np.linalg.svd(known - known.mean(axis=0), full_matrices=False)
    projected, best = left.T @ (latency_ms - offset), (np.inf, np.zeros(features.shape[1]))
    for penalty in RIDGES * len(measured):
        shrunk = values**2 / (values**2 + penalty)
        residual = latency_ms - offset - left @ (shrunk * projected)
        leverage = np.square(left) @ shrunk + 1 / len(measured)
        error = float(np.square(residual / np.maximum(1 - leverage, 1e-3)).mean())
        if error < best[0]:
            best = error, right.T @ (values / (values**2 + penalty) * projected)
    return np.asarray(offset + (scaled - known.mean(axis=0)) @ best[1])


def predictions(
    features: Mapping[str, Array], work: Array, measured: NDArray[np.int64], latency_ms: Array
) -> dict[str, Array]:
    """By method; the ridges need three measurements."""
    found = {"flops": flops(work, measured, latency_ms)}
    if len(measured) >= 3:
        found |= {name: ridge(values, measured, latency_ms) for name, values in features.items()}
    return found
