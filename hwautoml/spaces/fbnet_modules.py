"""The layers and the network of the ``fbnet`` space as plain modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hwautoml.core.layer import Layer
from hwautoml.spaces.blocks import Head, conv_bn
from hwautoml.spaces.fbnet_layers import num_groups
from hwautoml.spaces.layer_modules import LayerModules


class ConvRelu(nn.Module):
    """Convolution, BatchNorm, ReLU: stem, last convolution, and ``skip`` where the shape changes."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.conv = conv_bn(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x))


class Block(nn.Module):
    def __init__(self, layer: Layer) -> None:
        super().__init__()
        inner, self.groups = layer.expansion * layer.in_channels, num_groups(layer)
        self.expand = conv_bn(layer.in_channels, inner, 1, groups=self.groups)
        self.depthwise = conv_bn(inner, inner, layer.kernel_size, layer.stride, groups=inner)
        self.project = conv_bn(inner, layer.out_channels, 1, groups=self.groups)
        self.is_residual = layer.stride == 1 and layer.in_channels == layer.out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = shuffle(torch.relu(self.expand(x)), self.groups)
        y = self.project(torch.relu(self.depthwise(y)))
        return x + y if self.is_residual else y


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Channels of the groups in turn, so that the next grouped convolution sees all of them (Zhang et al. 2018)."""
    if groups == 1:
        return x
    batch, channels, height, width = x.shape
    apart = x.reshape(batch, groups, channels // groups, height, width)
    return apart.transpose(1, 2).reshape(batch, channels, height, width)


_MODULES = LayerModules(
    {
        "stem": ConvRelu,
        "skip": ConvRelu,
        "block": Block,
        "block_g2": Block,
        "final": ConvRelu,
        "head": Head,
    }
)
build_layer, build_network = _MODULES.layer, _MODULES.network
