"""What a training step costs on a machine: a line through a few networks that were timed.

Latency on the target says little about it: a depthwise convolution that is cheap to run is dear to train on a CPU.
But training time is nearly a straight line in what is known of every network: multiply-accumulates, bytes of
activations, and kernels, whose launching dominates small maps. Sixteen members of the ``mobile`` space at 32 x 32, of
1 to 88 million multiply-accumulates, timed on one core in two sessions: the first two of these fit them with a mean
error of 9 %, 19 % at most.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.layer import LayerCost


@dataclass(frozen=True)
class TrainingCost:
    """Seconds of training, forward and backward, of one network alone; ``relative_error`` is the fit's mean one."""

    sec_per_mac: float
    sec_per_byte: float
    sec_per_kernel: float
    relative_error: float

    def sec_per_image(self, cost: LayerCost, batch_size: int) -> float:
        """Predicted, for a network's ``total_cost`` at batch 1; launching kernels is shared by the batch."""
        return float(_features([cost], batch_size)[0] @ self._coefficients)

    @property
    def _coefficients(self) -> NDArray[np.float64]:
        return np.array([self.sec_per_mac, self.sec_per_byte, self.sec_per_kernel])


def fit_training_cost(costs: Sequence[LayerCost], sec_per_image: NDArray[np.float64], batch_size: int) -> TrainingCost:
    """Least squares of the relative errors with coefficients that are not negative: the best of the seven subsets."""
    features = _features(costs, batch_size) / sec_per_image[:, None]
    best, least = np.zeros(3), np.inf
    for subset in (list(s) for n in (1, 2, 3) for s in itertools.combinations(range(3), n)):
        found = np.linalg.lstsq(features[:, subset], np.ones(len(costs)), rcond=None)[0]
        error = float(np.square(features[:, subset] @ found - 1).sum())
        if found.min() >= 0 and error < least:
            best, least = np.zeros(3), error
            best[subset] = found
    relative_error = float(np.abs(features @ best - 1).mean())
    return TrainingCost(float(best[0]), float(best[1]), float(best[2]), relative_error)


def _features(costs: Sequence[LayerCost], batch_size: int) -> NDArray[np.float64]:
    """(n, 3): per image, multiply-accumulates, bytes of activations (weights are read once a batch) and kernels."""
    return np.array([[c.macs, c.bytes_moved - 4 * c.parameters, c.num_kernels / batch_size] for c in costs], float)
