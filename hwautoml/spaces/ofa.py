"""The ``ofa-mobilenetv3`` space of Once-for-All (Cai et al., ICLR 2020).

The input is 128 to 224 pixels wide in steps of 4. Each of five stages has two, three or four
blocks, each block its kernel (3, 5, 7) and expansion (3, 4, 6). Stages differ in what
MobileNetV3 gives them: squeeze-and-excitation, and ReLU or hard swish.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial, reduce
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.layer import HEAD, Layer, LayerCost
from hwautoml.core.space import Architecture, Choice, SearchSpace, Value
from hwautoml.errors import InvalidValueError
from hwautoml.spaces.convolution import strided
from hwautoml.spaces.indexing import Table, index_table, look_up, positions
from hwautoml.spaces.ofa_layers import layer_cost, make_divisible
from hwautoml.spaces.sizes import require_published

if TYPE_CHECKING:
    from torch import nn

RESOLUTIONS = tuple(range(128, 225, 4))
KERNELS, EXPANSIONS, DEPTHS = (3, 5, 7), (3, 4, 6), (2, 3, 4)
WIDTH_MULTIPLIERS = (1.0, 1.2)


@dataclass(frozen=True)
class Stage:
    """``width`` before it is multiplied; ``stride`` of its first block."""

    index: int
    width: int
    stride: int
    has_gate: bool
    activation: str

    @property
    def kind(self) -> str:
        return "mbconv_se" if self.has_gate else "mbconv"


STAGES = (
    Stage(0, 24, 2, False, "relu"),
    Stage(1, 40, 2, True, "relu"),
    Stage(2, 80, 2, False, "hswish"),
    Stage(3, 112, 1, True, "hswish"),
    Stage(4, 160, 2, True, "hswish"),
)
FIRST_WIDTH, FINAL_WIDTH, MIXED_WIDTH = 16, 960, 1280


@dataclass(frozen=True)
class OFASpace(SearchSpace):
    """``width_multiplier`` 1.2 is that of the network whose latencies are published.

    Raises InvalidValueError for images, classes or a multiplier that are not published.
    """

    identity = "ofa-mobilenetv3/v1"
    published = ((RESOLUTIONS[-1], 3, 1000),)
    image_size: int = RESOLUTIONS[-1]
    channels: int = 3
    num_outputs: int = 1000
    width_multiplier: float = 1.2

    def __post_init__(self) -> None:
        require_published(self)
        if self.width_multiplier not in WIDTH_MULTIPLIERS:
            raise InvalidValueError(f"width multiplier {self.width_multiplier} must be one of {WIDTH_MULTIPLIERS}")

    @property
    def family(self) -> str:
        size = f"{self.image_size}x{self.image_size}x{self.channels}"
        return f"{self.identity}/w{self.width_multiplier}/{size}"

    def variants(self) -> tuple[SearchSpace, ...]:
        return tuple(replace(self, width_multiplier=multiplier) for multiplier in WIDTH_MULTIPLIERS)

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        choices = [Choice("resolution", RESOLUTIONS)]
        for stage in STAGES:
            choices.append(Choice(f"stage{stage.index}.depth", DEPTHS))
            for block in range(DEPTHS[-1]):
                prefix = f"stage{stage.index}.block{block}"
                choices += [Choice(f"{prefix}.kernel", KERNELS), Choice(f"{prefix}.expansion", EXPANSIONS)]
        return tuple(choices)

    def canonical(self, values: Mapping[str, Value]) -> dict[str, Value]:
        result = dict(values)
        for stage in STAGES:
            for block in range(int(values[f"stage{stage.index}.depth"]), DEPTHS[-1]):
                prefix = f"stage{stage.index}.block{block}"
                result[f"{prefix}.kernel"], result[f"{prefix}.expansion"] = KERNELS[0], EXPANSIONS[0]
        return result

    def resolution(self, architecture: Architecture) -> int:
        return int(architecture["resolution"])

    def placed_layers(self, architecture: Architecture) -> tuple[tuple[str, Layer], ...]:
        """(position, layer) first to last."""
        values = architecture.as_dict
        resolution = int(values["resolution"])
        placed = list(zip(("stem", "first"), self._beginning(resolution), strict=True))
        for stage in STAGES:
            for block in range(int(values[f"stage{stage.index}.depth"])):
                prefix = f"stage{stage.index}.block{block}"
                kernel, expansion = int(values[f"{prefix}.kernel"]), int(values[f"{prefix}.expansion"])
                layer = self._block(stage, block > 0, resolution, kernel, expansion)
                placed.append((f"stage{stage.index}_block{block}", layer))
        return (*placed, *zip(("final", "mix", "head"), self._end(resolution), strict=True))

    def layers(self, architecture: Architecture) -> tuple[Layer, ...]:
        return tuple(layer for _, layer in self.placed_layers(architecture))

    def all_layers(self) -> tuple[Layer, ...]:
        return tuple(dict.fromkeys(layer for resolution in RESOLUTIONS for layer in self._layers_at(resolution)))

    def _layers_at(self, resolution: int) -> Iterator[Layer]:
        yield from self._beginning(resolution)
        for stage in STAGES:
            for is_later in (False, True):
                for kernel in KERNELS:
                    for expansion in EXPANSIONS:
                        yield self._block(stage, is_later, resolution, kernel, expansion)
        yield from self._end(resolution)

    def layer_indices(self, encodings: NDArray[np.integer]) -> NDArray[np.int64]:
        chosen = dict(zip((c.name for c in self.choices), self.checked_encodings(encodings).T.copy(), strict=True))
        fixed, stages = self._index_tables
        resolution, free = chosen["resolution"], len(self.all_layers())
        indices = [table[resolution] for table in fixed]
        for stage, tables in zip(STAGES, stages, strict=True):
            depth = np.array(DEPTHS)[chosen[f"stage{stage.index}.depth"]]
            for block in range(DEPTHS[-1]):
                prefix = f"stage{stage.index}.block{block}"
                shape = chosen[f"{prefix}.kernel"], chosen[f"{prefix}.expansion"]
                found = look_up(tables[min(block, 1)], resolution, *shape)
                indices.append(np.where(block < depth, found, free))
        return np.stack(indices).T

    @cached_property
    def _index_tables(self) -> tuple[list[Table], list[list[Table]]]:
        """Positions in ``all_layers()`` by option indices: of the fixed layers, and per stage of the
        first and of the later blocks."""
        index = positions(self.all_layers())
        fixed = [(*self._beginning(resolution), *self._end(resolution)) for resolution in RESOLUTIONS]
        stages = [
            [
                index_table(index, partial(self._block, stage, is_later), RESOLUTIONS, KERNELS, EXPANSIONS)
                for is_later in (False, True)
            ]
            for stage in STAGES
        ]
        return [np.array([index[layer] for layer in same]) for same in zip(*fixed, strict=True)], stages

    def cost(self, layer: Layer) -> LayerCost:
        return layer_cost(layer)

    def layer_module(self, layer: Layer) -> nn.Module:
        from hwautoml.spaces.ofa_modules import build_layer

        return build_layer(layer)

    def module(self, architecture: Architecture) -> nn.Module:
        """Without the original's dropout in front of the classifier, which is off outside of training."""
        from hwautoml.spaces.ofa_modules import build_network

        return build_network(self.placed_layers(architecture))

    def _beginning(self, resolution: int) -> tuple[Layer, ...]:
        width = self._width(FIRST_WIDTH)
        stem = _layer("stem", self.channels, resolution, width, 3, 1, 2, "hswish")
        return stem, _layer("mbconv", width, strided(resolution, 2), width, 3)

    def _block(self, stage: Stage, is_later: bool, resolution: int, kernel: int, expansion: int) -> Layer:
        out = self._width(stage.width)
        earlier = FIRST_WIDTH if stage.index == 0 else STAGES[stage.index - 1].width
        into, stride = (out, 1) if is_later else (self._width(earlier), stage.stride)
        side = self._side(resolution, stage.index + is_later)
        return _layer(stage.kind, into, side, out, kernel, expansion, stride, stage.activation)

    def _end(self, resolution: int) -> tuple[Layer, ...]:
        side, final, mixed = self._side(resolution, len(STAGES)), self._width(FINAL_WIDTH), self._width(MIXED_WIDTH)
        return (
            _layer("final", self._width(STAGES[-1].width), side, final, activation="hswish"),
            _layer("mix", final, side, mixed, activation="hswish"),
            _layer(HEAD, mixed, 1, self.num_outputs),
        )

    def _side(self, resolution: int, num_stages: int) -> int:
        """Side of the feature map after so many stages."""
        return reduce(strided, (stage.stride for stage in STAGES[:num_stages]), strided(resolution, 2))

    def _width(self, base: int) -> int:
        return make_divisible(base * self.width_multiplier)


@cache
def _layer(
    kind: str,
    into: int,
    side: int,
    out: int,
    kernel: int = 1,
    expansion: int = 1,
    stride: int = 1,
    activation: str = "relu",
) -> Layer:
    return Layer(kind, into, side, side, out, kernel, expansion, stride, activation)
