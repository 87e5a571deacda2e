"""A batch at the resolution of the member that is trained on it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def resized(images: Tensor, side: int) -> Tensor:
    """(N, C, H, W) to (N, C, side, side), antialiased bilinear, channels last; as they are where they fit."""
    if images.shape[-1] == side:
        return images
    found = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
    return found.contiguous(memory_format=torch.channels_last)
