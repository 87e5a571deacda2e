"""What a training step costs on this machine: a few real steps, and a line through them.

Latency on the target says little about it: a depthwise convolution that is cheap to run is dear to train on a CPU.
But training time is nearly a straight line in what is known of every network: multiply-accumulates, bytes of
activations, and kernels, whose launching dominates small maps. Sixteen members of the ``mobile`` space at 32 x 32, of
1 to 88 million multiply-accumulates, timed on one core in two sessions: the first two of these fit them with a mean
error of 9 %, 19 % at most.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from hwautoml.core.layer import LayerCost
from hwautoml.core.space import Architecture, SearchSpace
from hwautoml.supernets.memory import keep_freed_memory
from hwautoml.supernets.training import StepLoss, TrainSettings, fastest_setup, network_step

TIMED_STEPS = 2
MIN_MEMBERS = 4


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


def measure_training_cost(
    space: SearchSpace,
    architectures: Iterable[Architecture],
    images: Tensor,
    labels: Tensor,
    *,
    budget_sec: float,
) -> TrainingCost:
    """Time real steps of members of their own, until the time or the members are used up, but of four at least.

    ``images`` (N, C, H, W) and ``labels`` (N,) are one batch on the device that will train; the precision and
    the thread count are those that the first member runs fastest with.
    """
    keep_freed_memory()
    began, setup = time.monotonic(), None
    costs: list[LayerCost] = []
    seconds: list[float] = []
    for architecture in architectures:
        if len(costs) >= MIN_MEMBERS and time.monotonic() - began > budget_sec:
            break
        network = space.module(architecture).train()
        network.to(images.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own gap
        side = space.resolution(architecture)
        resized = F.interpolate(images, (side, side)).contiguous(memory_format=torch.channels_last)

        def make_step(dtype: torch.dtype | None, network: torch.nn.Module = network) -> StepLoss:
            return network_step(network, settings=TrainSettings(), dtype=dtype, device=images.device.type)

        if setup is None:
            setup = fastest_setup(network, make_step, resized, labels)
        step = make_step(setup.dtype)
        seconds.append(min(_timed(step, resized, labels) for _ in range(1 + TIMED_STEPS)) / len(labels))
        costs.append(space.total_cost(architecture))
    return fit_training_cost(costs, np.array(seconds), len(labels))


def _timed(step: StepLoss, images: Tensor, labels: Tensor) -> float:
    started = time.monotonic()
    float(step(images, labels))  # waits for the device
    return time.monotonic() - started


def _features(costs: Sequence[LayerCost], batch_size: int) -> NDArray[np.float64]:
    """(n, 3): per image, multiply-accumulates, bytes of activations (weights are read once a batch) and kernels."""
    return np.array([[c.macs, c.bytes_moved - 4 * c.parameters, c.num_kernels / batch_size] for c in costs], float)
