"""The blocks of the ``mobile`` space as plain modules, each a function of its Layer alone.

Every weight is named alike in all sizes of a block, so that a smaller block's weights are
slices of a larger one's; ``supernets`` relies on it.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from hwautoml.core.layer import Layer
from hwautoml.spaces.layer_modules import LayerModules
from hwautoml.spaces.mobile_layers import inner_channels, squeeze_channels


def conv_bn(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
            norm=nn.BatchNorm2d(out_channels),
        )
    )


class SqueezeExcite(nn.Module):
    """Channel gate (Hu et al. 2018) with the hard sigmoid of MobileNetV3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeeze_channels(channels), 1)
        self.expand = nn.Conv2d(squeeze_channels(channels), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(torch.relu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * nn.functional.hardsigmoid(gate)


class Stem(nn.Module):
    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.conv = conv_bn(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x))


class MBConv(nn.Module):
    def __init__(self, layer: Layer) -> None:
        super().__init__()
        inner = inner_channels(layer)
        self.expand = conv_bn(layer.in_channels, inner, 1) if layer.expansion > 1 else None
        self.depthwise = conv_bn(inner, inner, layer.kernel_size, layer.stride, groups=inner)
        self.gate = SqueezeExcite(inner) if layer.kind == "mbconv_se" else None
        self.project = conv_bn(inner, layer.out_channels, 1)
        self.is_residual = layer.stride == 1 and layer.in_channels == layer.out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.expand(x)) if self.expand is not None else x
        y = torch.relu(_in_float32(self.depthwise, y))
        if self.gate is not None:
            y = self.gate(y)
        y = self.project(y)
        return x + y if self.is_residual else y


def _in_float32(module: nn.Module, x: Tensor) -> Tensor:
    """Under autocast too: CPUs have no fast bfloat16 depthwise convolution (measured 4 times slower)."""
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return module(x.float())
    return module(x)


class FusedMBConv(nn.Module):
    def __init__(self, layer: Layer) -> None:
        super().__init__()
        inner = inner_channels(layer)
        self.expand = conv_bn(layer.in_channels, inner, layer.kernel_size, layer.stride)
        self.project = conv_bn(inner, layer.out_channels, 1)
        self.is_residual = layer.stride == 1 and layer.in_channels == layer.out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(torch.relu(self.expand(x)))
        return x + y if self.is_residual else y


class Basic(nn.Module):
    def __init__(self, layer: Layer) -> None:
        super().__init__()
        inner = inner_channels(layer)
        self.first = conv_bn(layer.in_channels, inner, layer.kernel_size, layer.stride)
        self.second = conv_bn(inner, layer.out_channels, layer.kernel_size)
        is_identity = layer.stride == 1 and layer.in_channels == layer.out_channels
        self.shortcut = None if is_identity else conv_bn(layer.in_channels, layer.out_channels, 1, layer.stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(torch.relu(self.first(x)))
        return torch.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class Head(nn.Module):
    """Global average pool and linear classifier: (N, C, H, W) to logits (N, out_channels)."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.linear = nn.Linear(layer.in_channels, layer.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.mean((2, 3)))


_MODULES = LayerModules(
    {
        "stem": Stem,
        "mbconv": MBConv,
        "mbconv_se": MBConv,
        "fused": FusedMBConv,
        "basic": Basic,
        "head": Head,
    }
)
build_block = _MODULES.layer
