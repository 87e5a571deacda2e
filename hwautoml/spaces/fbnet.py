"""The ``fbnet`` space: 22 positions, 9 blocks each (Wu et al., CVPR 2019), 9^22 or 10^21 networks.

A block is a 1x1 convolution to ``expansion`` times the channels, a depthwise one, and a 1x1
convolution back, each with BatchNorm, ReLU after the first two; with expansion 1 the first one
is there too. ``g2`` splits both 1x1 convolutions into two groups and shuffles the channels after
the first. ``skip`` leaves the position out where its input has its output's shape; elsewhere it
is a 1x1 convolution with BatchNorm and ReLU, as in the code that the published latencies were
measured with (HW-NAS-Bench, Li et al., ICLR 2021).

That code builds two networks: the paper's for 224x224 images, and one for 32x32 images with
fewer strides. The published latencies are of the small one (docs/spaces.md says how we know),
which is therefore the default.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.layer import HEAD, Layer, LayerCost
from hwautoml.core.space import Architecture, Choice, SearchSpace
from hwautoml.spaces.convolution import strided
from hwautoml.spaces.fbnet_layers import layer_cost
from hwautoml.spaces.indexing import Table, index_table, positions
from hwautoml.spaces.sizes import require_published

if TYPE_CHECKING:
    from torch import nn

BLOCKS = {  # name: (kernel size, expansion, groups), cheapest first
    "k3_e1_g2": (3, 1, 2),
    "k5_e1_g2": (5, 1, 2),
    "k3_e1": (3, 1, 1),
    "k5_e1": (5, 1, 1),
    "k3_e3": (3, 3, 1),
    "k5_e3": (5, 3, 1),
    "k3_e6": (3, 6, 1),
    "k5_e6": (5, 6, 1),
}
OPERATIONS = ("skip", *BLOCKS)
STEM_WIDTH = 16
WIDTHS, DEPTHS = (16, 24, 32, 64, 112, 184, 352), (1, 4, 4, 4, 4, 4, 1)
NUM_POSITIONS = sum(DEPTHS)


@dataclass(frozen=True)
class Skeleton:
    """What is not searched: strides of the stem and of each stage's first block, width of the last convolution."""

    stem_stride: int
    strides: tuple[int, ...]
    final_width: int


SKELETONS = {  # by image size, channels, classes
    (32, 3, 100): Skeleton(1, (1, 1, 2, 2, 1, 2, 1), 1504),
    (224, 3, 1000): Skeleton(2, (1, 2, 2, 2, 1, 2, 1), 1984),
}


@dataclass(frozen=True)
class Position:
    """Shape of one of the 22: ``side`` is that of its input."""

    in_channels: int
    out_channels: int
    side: int
    stride: int


@dataclass(frozen=True)
class FBNetSpace(SearchSpace):
    """Raises InvalidValueError for images or classes that are not published."""

    identity = "fbnet/v1"
    published = tuple(SKELETONS)
    image_size: int = 32
    channels: int = 3
    num_outputs: int = 100

    def __post_init__(self) -> None:
        require_published(self)

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        return tuple(Choice(f"position{index}", OPERATIONS) for index in range(NUM_POSITIONS))

    @cached_property
    def skeleton(self) -> Skeleton:
        return SKELETONS[self.image_size, self.channels, self.num_outputs]

    @cached_property
    def positions(self) -> tuple[Position, ...]:
        found, width, side = [], STEM_WIDTH, strided(self.image_size, self.skeleton.stem_stride)
        for out, depth, first_stride in zip(WIDTHS, DEPTHS, self.skeleton.strides, strict=True):
            for stride in (first_stride, *[1] * (depth - 1)):
                found.append(Position(width, out, side, stride))
                width, side = out, strided(side, stride)
        return tuple(found)

    def placed_layers(self, architecture: Architecture) -> tuple[tuple[str, Layer], ...]:
        """(position, layer) first to last, without the positions that are left out."""
        placed = [("stem", self._stem)]
        for (name, operation), position in zip(architecture.values, self.positions, strict=True):
            layer = position_layer(position, str(operation))
            placed += [] if layer is None else [(name, layer)]
        return (*placed, ("final", self._final), ("head", self._head))

    def layers(self, architecture: Architecture) -> tuple[Layer, ...]:
        return tuple(layer for _, layer in self.placed_layers(architecture))

    def all_layers(self) -> tuple[Layer, ...]:
        searched = (position_layer(p, operation) for p in self.positions for operation in OPERATIONS)
        return (self._stem, *dict.fromkeys(filter(None, searched)), self._final, self._head)

    def layer_indices(self, encodings: NDArray[np.integer]) -> NDArray[np.int64]:
        options = self.checked_encodings(encodings)
        searched = self._index_tables[np.arange(NUM_POSITIONS), options]
        num_layers = len(self.all_layers())
        fixed = np.array([0, num_layers - 2, num_layers - 1])  # stem, final, head
        return np.hstack([np.broadcast_to(fixed, (len(options), 3)), searched])

    @cached_property
    def _index_tables(self) -> Table:
        """(22, 9) positions in ``all_layers()``."""
        index = positions(self.all_layers())
        return np.stack([index_table(index, partial(position_layer, p), OPERATIONS) for p in self.positions])

    def cost(self, layer: Layer) -> LayerCost:
        return layer_cost(layer)

    def layer_module(self, layer: Layer) -> nn.Module:
        from hwautoml.spaces.fbnet_modules import build_layer

        return build_layer(layer)

    def module(self, architecture: Architecture) -> nn.Module:
        from hwautoml.spaces.fbnet_modules import build_network

        return build_network(self.placed_layers(architecture))

    @property
    def _stem(self) -> Layer:
        return _layer("stem", self.channels, self.image_size, STEM_WIDTH, 3, 1, self.skeleton.stem_stride)

    @property
    def _final(self) -> Layer:
        return _layer("final", WIDTHS[-1], self._last_side, self.skeleton.final_width)

    @property
    def _head(self) -> Layer:
        return _layer(HEAD, self.skeleton.final_width, self._last_side, self.num_outputs)

    @property
    def _last_side(self) -> int:
        return strided(self.positions[-1].side, self.positions[-1].stride)


def position_layer(position: Position, operation: str) -> Layer | None:
    """None where ``skip`` leaves the position out."""
    into, out, side, stride = position.in_channels, position.out_channels, position.side, position.stride
    if operation == "skip":
        return None if into == out and stride == 1 else _layer("skip", into, side, out, stride=stride)
    kernel, expansion, groups = BLOCKS[operation]
    kind = "block" if groups == 1 else f"block_g{groups}"
    return _layer(kind, into, side, out, kernel, expansion, stride)


@cache
def _layer(kind: str, into: int, side: int, out: int, kernel: int = 1, expansion: int = 1, stride: int = 1) -> Layer:
    return Layer(kind, into, side, side, out, kernel, expansion, stride)
