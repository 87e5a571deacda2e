"""The ``micro`` space: short sequences of convolutions without shortcuts, for microcontrollers.

A shortcut keeps its block's input in memory until the sum; without any, two feature maps are alive at a time, and the
largest pair decides how much memory a network needs. Each stage chooses what its blocks are (a dense convolution, or
a depthwise one and a 1x1 convolution), how many and how wide they are and their kernel; the network its resolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from hwautoml.core.elastic_space import ElasticSpace
from hwautoml.core.layer import HEAD, Layer, LayerCost
from hwautoml.core.space import Architecture, Choice
from hwautoml.errors import InvalidValueError
from hwautoml.spaces.convolution import Convolution, cost_of, strided

if TYPE_CHECKING:
    from torch import nn

KINDS = ("separable", "conv")
KERNELS = (3, 5)
DEPTHS = (1, 2)
STEM_WIDTH = 8
WIDTHS = ((8, 16), (16, 32), (32, 64))  # by stage
STRIDES = (1, 2, 2)  # of each stage's first block
MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 8, 96


@dataclass(frozen=True)
class MicroSpace(ElasticSpace):
    """Raises InvalidValueError for an image size outside 8..96, channels not 1 or 3, or no output."""

    identity = "micro/v1"
    image_size: int
    channels: int
    num_outputs: int

    def __post_init__(self) -> None:
        if not MIN_IMAGE_SIZE <= self.image_size <= MAX_IMAGE_SIZE:
            raise InvalidValueError(
                f"image size {self.image_size} must be between {MIN_IMAGE_SIZE} and {MAX_IMAGE_SIZE} in space 'micro'",
                fix="--image-size 32",
            )
        if self.channels not in (1, 3):
            raise InvalidValueError(f"channels must be 1 (grey) or 3 (RGB), got {self.channels}")
        if self.num_outputs < 1:
            raise InvalidValueError(f"a network needs at least 1 output, got {self.num_outputs}")

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        choices = [Choice("resolution", (self.image_size * 3 // 8 * 2, self.image_size))]
        for stage, widths in enumerate(WIDTHS):
            choices += [
                Choice(f"stage{stage}.kind", KINDS, is_ordered=False),
                Choice(f"stage{stage}.depth", DEPTHS),
                Choice(f"stage{stage}.width", widths),
                Choice(f"stage{stage}.kernel", KERNELS),
            ]
        return tuple(choices)

    def resolution(self, architecture: Architecture) -> int:
        return int(architecture["resolution"])

    def placed_layers(self, architecture: Architecture) -> tuple[tuple[str, Layer], ...]:
        values = architecture.as_dict
        stem = self._stem(self.resolution(architecture))
        placed, side, width = [("stem", stem)], strided(stem.height, stem.stride), STEM_WIDTH
        for stage, stride in enumerate(STRIDES):
            kind, out = str(values[f"stage{stage}.kind"]), int(values[f"stage{stage}.width"])
            for block in range(int(values[f"stage{stage}.depth"])):
                layer = _layer(kind, width, side, out, int(values[f"stage{stage}.kernel"]), stride if block == 0 else 1)
                placed.append((f"stage{stage}_block{block}", layer))
                side, width = strided(side, layer.stride), out
        return (*placed, ("head", _layer(HEAD, width, side, self.num_outputs)))

    def all_layers(self) -> tuple[Layer, ...]:
        resolutions = self.choices[0].options
        return tuple(dict.fromkeys(layer for side in resolutions for layer in self._layers_at(int(side))))

    def _layers_at(self, resolution: int) -> Iterator[Layer]:
        stem = self._stem(resolution)
        yield stem
        side = strided(stem.height, stem.stride)
        in_widths: tuple[int, ...] = (STEM_WIDTH,)
        for widths, stride in zip(WIDTHS, STRIDES, strict=True):
            for kind in KINDS:
                for kernel in KERNELS:
                    for out in widths:
                        yield from (_layer(kind, width, side, out, kernel, stride) for width in in_widths)
                        yield _layer(kind, out, strided(side, stride), out, kernel)
            side, in_widths = strided(side, stride), widths
        yield from (_layer(HEAD, width, side, self.num_outputs) for width in in_widths)

    def shared_layers(self) -> dict[str, dict[str, Layer]]:
        shared = {}
        for position, layer in self.placed_layers(self.largest()):
            kinds = KINDS if position.startswith("stage") else (layer.kind,)
            size = layer.in_channels, layer.height, layer.out_channels, layer.kernel_size, layer.stride
            shared[position] = {kind: _layer(kind, *size) for kind in kinds}
        return shared

    def cost(self, layer: Layer) -> LayerCost:
        into, out, kernel, side = layer.in_channels, layer.out_channels, layer.kernel_size, layer.height
        out_side = strided(side, layer.stride)
        if layer.is_head:
            convolutions = [Convolution(into, out, 1, side, 1)]
        elif layer.kind == "conv":
            convolutions = [Convolution(into, out, kernel, side, out_side)]
        else:
            depthwise = Convolution(into, into, kernel, side, out_side, groups=into)
            convolutions = [depthwise, Convolution(into, out, 1, out_side, out_side)]
        return cost_of(convolutions, layer.batch)

    def layer_module(self, layer: Layer) -> nn.Module:
        from torch import nn

        def activated(into: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
            conv = nn.Conv2d(into, out, kernel, stride, kernel // 2, groups=groups, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU())

        into, out, kernel, stride = layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride
        if layer.is_head:
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(into, out))
        if layer.kind == "conv":
            return activated(into, out, kernel, stride)
        return nn.Sequential(activated(into, into, kernel, stride, groups=into), activated(into, out, 1))

    def _stem(self, resolution: int) -> Layer:
        return _layer("conv", self.channels, resolution, STEM_WIDTH, 3, 1 if self.image_size < 48 else 2)


def _layer(kind: str, into: int, side: int, out: int, kernel: int = 1, stride: int = 1) -> Layer:
    return Layer(kind, into, side, side, out, kernel, stride=stride)
