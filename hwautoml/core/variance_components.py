"""How much each component of a Gaussian prior contributes, from data: type-II maximum likelihood.

A task is one device's deviation from what was expected, ``y ~ N(0, sum_j a_j K_j + v N)``, with components K_j that
all tasks share, a noise level v of its own and a known pattern of noise N (diagonal). The amplitudes maximise the
weighted sum of the tasks' log marginal likelihoods by the fixed point of its derivative (MacKay 1992 for ridge
regression; for variance components the MM update of Zhou et al. 2019, here with a larger step)::

    a_j <- a_j * ( sum_t y_t' P_t K_tj P_t y_t / sum_t trace(P_t K_tj) )^step,     P_t = inverse covariance of task t

No step size to tune, no derivative to code, positive by construction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.latency_model import student_weights

Array = NDArray[np.float64]

_STEP = 0.8
_MIN_VARIANCE = 1e-9
_ROBUST_EVERY = 6  # steps between two looks at which results are outliers


@dataclass(frozen=True)
class Task:
    """``kernels`` (J, n, n), ``deviation`` (n,), ``noise`` (n,) relative variance of each result."""

    kernels: Array
    deviation: Array
    noise: Array


def fit(
    tasks: Sequence[Task], weights: Array, *, num_steps: int, start: tuple[Array, Array] | None = None
) -> tuple[Array, Array]:
    """Component variances (J,) and noises (num_tasks,): squared scales of Student-t noise, robust against outliers.

    Of normal noise that is about 0.7 times its variance.

    ``weights`` (num_tasks,) say how much each task counts for the components. Deterministic.
    """
    num_components = len(tasks[0].kernels)
    amplitudes, noises = start or (np.full(num_components, 0.01), np.full(len(tasks), 0.01))
    amplitudes, noises = amplitudes.copy(), noises.copy()
    trust = [np.ones(len(task.deviation)) for task in tasks]
    for step in range(num_steps):
        explained, expected = np.zeros(num_components), np.zeros(num_components)
        for number, task in enumerate(tasks):
            latent = np.tensordot(amplitudes, task.kernels, 1)
            if step % _ROBUST_EVERY == _ROBUST_EVERY - 1:
                trust[number] = student_weights(latent, noises[number] * task.noise, task.deviation)
            noise = task.noise / trust[number]
            precision = np.linalg.inv(latent + np.diag(noises[number] * noise))
            pulled = precision @ task.deviation
            flat = task.kernels.reshape(num_components, -1)
            explained += weights[number] * (flat @ np.outer(pulled, pulled).ravel())
            expected += weights[number] * (flat @ precision.ravel())
            ratio = float(np.square(pulled) @ noise) / float(np.diag(precision) @ noise)
            noises[number] = max(noises[number] * ratio, _MIN_VARIANCE)
        amplitudes = np.maximum(amplitudes * np.power(explained / np.maximum(expected, 1e-300), _STEP), _MIN_VARIANCE)
    return amplitudes, noises


def log_evidence(latent: Array, noise: Array, deviation: Array) -> float:
    """log N(deviation; 0, latent + diag(noise)), without its constant."""
    lower = np.linalg.cholesky(latent + np.diag(noise))
    white = np.linalg.solve(lower, deviation)
    return -0.5 * float(white @ white) - float(np.log(np.diag(lower)).sum())
