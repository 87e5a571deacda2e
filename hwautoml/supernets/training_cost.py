"""Time a few real training steps, for the line that ``core.training_cost`` draws through them."""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hwautoml.core.layer import LayerCost
from hwautoml.core.space import Architecture, SearchSpace
from hwautoml.core.task import Task
from hwautoml.core.training_cost import TrainingCost, fit_training_cost
from hwautoml.supernets.memory import keep_freed_memory
from hwautoml.supernets.training import StepLoss, fastest_setup, network_step

TIMED_STEPS = 2
MIN_MEMBERS = 4


def measure_training_cost(
    space: SearchSpace,
    architectures: Iterable[Architecture],
    images: Tensor,
    labels: Tensor,
    *,
    task: Task,
    budget_sec: float,
) -> TrainingCost:
    """Time real steps of members of their own, until the time or the members are used up, but of four at least.

    ``images`` (N, C, H, W) and ``labels`` (N, ...) are one batch on the device that will train; the precision and
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
            return network_step(network, task=task, dtype=dtype, device=images.device.type)

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
