"""The layers and the network of the ``ofa-mobilenetv3`` space as plain modules."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hwautoml.core.layer import Layer
from hwautoml.spaces.blocks import Head, conv_bn
from hwautoml.spaces.layer_modules import LayerModules
from hwautoml.spaces.ofa_layers import make_divisible

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "hswish": nn.functional.hardswish}


class Activated(nn.Module):
    """Convolution, BatchNorm, activation."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.conv = conv_bn(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride)
        self.activate = _ACTIVATIONS[layer.activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.activate(self.conv(x))


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, make_divisible(channels // 4), 1)
        self.expand = nn.Conv2d(make_divisible(channels // 4), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(torch.relu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * nn.functional.hardsigmoid(gate)


class MBConv(nn.Module):
    def __init__(self, layer: Layer) -> None:
        super().__init__()
        inner = layer.expansion * layer.in_channels
        self.expand = conv_bn(layer.in_channels, inner, 1) if layer.expansion > 1 else None
        self.depthwise = conv_bn(inner, inner, layer.kernel_size, layer.stride, groups=inner)
        self.gate = SqueezeExcite(inner) if layer.kind == "mbconv_se" else nn.Identity()
        self.project = conv_bn(inner, layer.out_channels, 1)
        self.activate = _ACTIVATIONS[layer.activation]
        self.is_residual = layer.stride == 1 and layer.in_channels == layer.out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else self.activate(self.expand(x))
        y = self.project(self.gate(self.activate(self.depthwise(y))))
        return x + y if self.is_residual else y


class Mix(nn.Module):
    """Global average pool, 1x1 convolution without norm or bias, activation: to (N, out_channels, 1, 1)."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.conv = nn.Conv2d(layer.in_channels, layer.out_channels, 1, bias=False)
        self.activate = _ACTIVATIONS[layer.activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.activate(self.conv(x.mean((2, 3), keepdim=True)))


_MODULES = LayerModules(
    {
        "stem": Activated,
        "mbconv": MBConv,
        "mbconv_se": MBConv,
        "final": Activated,
        "mix": Mix,
        "head": Head,
    }
)
build_layer, build_network = _MODULES.layer, _MODULES.network
