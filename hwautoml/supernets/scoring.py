"""BatchNorm recalibration and scoring; a score is always a confusion matrix."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

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
def confusion_matrix(network: nn.Module, batches: Batches, num_classes: int) -> NDArray[np.int64]:
    """(num_classes, num_classes) counts; rows are true classes, columns predictions."""
    network.eval()
    counts = torch.zeros(num_classes * num_classes, dtype=torch.int64)
    for images, labels in batches:
        predicted = network(images).argmax(1)
        counts += torch.bincount((labels * num_classes + predicted).cpu(), minlength=num_classes**2)
    return counts.view(num_classes, num_classes).numpy()


def accuracy(confusion: NDArray[np.integer]) -> float:
    """Share of correct predictions, 0..1."""
    return float(np.trace(confusion) / max(confusion.sum(), 1))
