"""BatchNorm recalibration and scoring; what is kept of a score is the task's outcome."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from hwautoml.core.task import Outcome, Task

Batches = Iterable[tuple[Tensor, Tensor]]


class Normalised(nn.Module):
    """Images with values 0..255 in; the network's own normalisation in front of it."""

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor, *args: object) -> Tensor:
        return self.network((images - self.mean) / self.std, *args)


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Batches) -> None:
    """Replace BatchNorm statistics by the average over ``batches`` (Yu & Huang 2019).

    Weight sharing leaves running statistics that fit no member; without this step every
    score of a subnet is noise.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    network.train()
    for images, _ in batches:
        network(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


@torch.no_grad()
def score(network: nn.Module, batches: Batches, task: Task) -> Outcome:
    """The outcome of ``network``, images to logits, on all ``batches``, of which there is at least one."""
    network.eval()
    parts = []
    for images, labels in batches:
        outputs = task.activate(network(images).float())
        parts.append(task.outcome(outputs.cpu().numpy(), labels.cpu().numpy()))
    return task.merge(parts)
