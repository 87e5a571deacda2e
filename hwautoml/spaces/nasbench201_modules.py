"""The layers and the network of the ``nasbench201`` space as plain modules."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hwautoml.core.layer import Layer
from hwautoml.spaces.blocks import conv_bn
from hwautoml.spaces.layer_modules import LayerModules
from hwautoml.spaces.nasbench201_layers import NUM_CELLS, Edge, operation_layer


class ReluConv(nn.Module):
    """ReLU, convolution, BatchNorm: the benchmark's order."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = conv_bn(in_channels, out_channels, kernel_size, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.relu(x))


class Reduction(nn.Module):
    """Residual block of stride 2 whose shortcut pools before it convolves."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.first = ReluConv(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride)
        self.second = ReluConv(layer.out_channels, layer.out_channels, layer.kernel_size)
        pool = nn.AvgPool2d(layer.stride, layer.stride)
        self.shortcut = nn.Sequential(pool, nn.Conv2d(layer.in_channels, layer.out_channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.second(self.first(x))


class Head(nn.Module):
    """BatchNorm, ReLU, global average pool, classifier: (N, C, H, W) to logits (N, out_channels)."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(layer.in_channels)
        self.linear = nn.Linear(layer.in_channels, layer.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.relu(self.norm(x)).mean((2, 3)))


class Add(nn.Module):
    """The sum of the input and a stored feature map: a micro-benchmark has one input only."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.other: Tensor
        self.register_buffer("other", torch.randn(1, layer.in_channels, layer.height, layer.width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.other


class Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 0.0


class Cell(nn.Module):
    """The live edges of a cell, for feature maps (N, width, side, side)."""

    def __init__(self, edges: Sequence[Edge], width: int, side: int) -> None:
        super().__init__()
        self.edges = tuple(edge for edge in edges if edge.is_live)
        self.operations = nn.ModuleDict()
        for edge in self.edges:
            layer = operation_layer(edge.operation, width, side)
            self.operations[edge.name] = nn.Identity() if layer is None else build_layer(layer)

    def forward(self, x: Tensor) -> Tensor:
        if not self.edges:
            return x * 0.0
        nodes = {0: x}
        for edge in self.edges:  # targets ascend, so a source is complete before it is used
            value = self.operations[edge.name](nodes[edge.source])
            nodes[edge.target] = nodes[edge.target] + value if edge.target in nodes else value
        return nodes[3]


class Network(nn.Sequential):
    """Float images (N, C, H, W) to logits (N, num_outputs)."""

    def __init__(self, edges: Sequence[Edge], stem: Layer, reductions: Sequence[Layer], head: Layer) -> None:
        super().__init__()
        self.add_module("stem", build_layer(stem))
        for stage, before in enumerate([stem, *reductions]):
            if stage:
                self.add_module(f"reduction{stage}", build_layer(before))
            side = before.height // before.stride
            for cell in range(NUM_CELLS):
                self.add_module(f"stage{stage}_cell{cell}", Cell(edges, before.out_channels, side))
        self.add_module("head", build_layer(head))


_MODULES = LayerModules(
    {
        "stem": lambda layer: conv_bn(layer.in_channels, layer.out_channels, layer.kernel_size),
        "relu_conv": lambda layer: ReluConv(layer.in_channels, layer.out_channels, layer.kernel_size),
        "avgpool": lambda layer: nn.AvgPool2d(layer.kernel_size, 1, 1, count_include_pad=False),
        "add": Add,
        "zero": lambda layer: Zero(),
        "reduction": Reduction,
        "head": Head,
    }
)
build_layer = _MODULES.layer
