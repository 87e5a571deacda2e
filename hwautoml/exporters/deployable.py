"""The module that ships: from an 8-bit picture to a task's outputs, with nothing left to the caller."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from hwautoml.errors import InvalidValueError


def softmax(logits: torch.Tensor) -> torch.Tensor:
    """Over classes (N, num_classes)."""
    return torch.softmax(logits, dim=1)


class Deployable(nn.Module):
    """uint8 images (N, H, W, C) to outputs (N, num_outputs), float32.

    ``network`` maps normalised float images (N, C, H, W) to logits. ``mean`` and ``std`` are per channel, in
    [0, 1] units; scaling by 255 is folded into them. ``activate`` is the task's; probes of latency, which have no
    task, end in softmax.

    Raises:
        InvalidValueError: ``mean`` and ``std`` differ in length, or a ``std`` is not positive.
    """

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        activate: Callable[[torch.Tensor], torch.Tensor] = softmax,
    ) -> None:
        super().__init__()
        if len(mean) != len(std) or not mean or any(not s > 0 for s in std):
            raise InvalidValueError(f"one mean and one positive std per channel are needed, got {mean=}, {std=}")
        self.network, self.activate = network, activate
        self.mean: torch.Tensor
        self.scale: torch.Tensor
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1) * 255)
        self.register_buffer("scale", 1 / (torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1) * 255))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        normalised = (images.permute(0, 3, 1, 2).float() - self.mean) * self.scale
        return self.activate(self.network(normalised))
