"""What convolutions cost: the sums from which every space's ``cost`` is made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hwautoml.core.layer import LayerCost


@dataclass(frozen=True)
class Convolution:
    """One kernel of a runtime; a linear layer is one of 1x1 pixels.

    ``side`` and ``out_side`` are those of square feature maps. ``has_bias`` is true for a
    convolution with a batch norm too: folded into it, the norm leaves a bias.
    """

    in_channels: int
    out_channels: int
    kernel_size: int
    side: int
    out_side: int
    groups: int = 1
    has_bias: bool = True

    @property
    def num_weights(self) -> int:
        return self.in_channels // self.groups * self.out_channels * self.kernel_size**2

    @property
    def is_depthwise(self) -> bool:
        return self.groups == self.in_channels > 1

    @property
    def activation_bytes(self) -> int:
        """fp32 input and output at batch 1."""
        return 4 * (self.in_channels * self.side**2 + self.out_channels * self.out_side**2)


def strided(side: int, stride: int) -> int:
    """Output side of a convolution padded by half its kernel."""
    return -(-side // stride)


def cost_of(convolutions: Iterable[Convolution], batch: int = 1) -> LayerCost:
    """Multiply-accumulates and fp32 traffic of convolutions that run one after the other, one kernel each."""
    convolutions = tuple(convolutions)
    return LayerCost(
        macs=sum(batch * c.num_weights * c.out_side**2 for c in convolutions),
        parameters=sum(c.num_weights + c.has_bias * c.out_channels for c in convolutions),
        bytes_moved=sum(batch * c.activation_bytes + 4 * c.num_weights for c in convolutions),
        peak_activation_bytes=max(batch * c.activation_bytes for c in convolutions),
        num_kernels=len(convolutions),
        depthwise_macs=sum(batch * c.num_weights * c.out_side**2 for c in convolutions if c.is_depthwise),
    )
