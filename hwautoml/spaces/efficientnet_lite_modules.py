"""The layers of EfficientNet-Lite as plain modules, written afresh after its published layout (Google 2020).

Padding is symmetric. TensorFlow, in which the weights were trained, pads images of even size on the right and below
alone where it halves them; the same network, seen from a pixel away, and spared a kernel of its own for the padding.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from hwautoml.core.layer import HEAD, Layer
from hwautoml.spaces.layer_modules import LayerModules

NORM_EPSILON, NORM_MOMENTUM = 1e-3, 0.01  # as the published weights were trained with


def conv_bn(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    norm = nn.BatchNorm2d(out_channels, eps=NORM_EPSILON, momentum=NORM_MOMENTUM)
    return nn.Sequential(OrderedDict(conv=conv, norm=norm))


class ConvReLU6(nn.Module):
    """The stem, and the 1 x 1 convolution on top."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.conv = conv_bn(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu6(self.conv(x))


class MBConv(nn.Module):
    """1 x 1 expand, depthwise, 1 x 1 project, and a shortcut where shapes allow (MobileNetV2, Sandler et al. 2018)."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        inner = layer.expansion * layer.in_channels
        self.expand = conv_bn(layer.in_channels, inner, 1) if layer.expansion > 1 else None
        self.depthwise = conv_bn(inner, inner, layer.kernel_size, layer.stride, groups=inner)
        self.project = conv_bn(inner, layer.out_channels, 1)
        self.is_residual = layer.stride == 1 and layer.in_channels == layer.out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else nn.functional.relu6(self.expand(x))
        y = self.project(nn.functional.relu6(self.depthwise(y)))
        return x + y if self.is_residual else y


class Head(nn.Module):
    """Global average pool and linear classifier: (N, C, H, W) to logits (N, out_channels)."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.linear = nn.Linear(layer.in_channels, layer.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = torch.mean(x, (2, 3))
        return self.linear(features)


build_layer = LayerModules({"stem": ConvReLU6, "mbconv": MBConv, "top": ConvReLU6, HEAD: Head}).layer
