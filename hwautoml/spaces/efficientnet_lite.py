"""The spaces ``efficientnet-lite0`` to ``2``: what can be made of EfficientNet-Lite by taking parts of it away.

EfficientNet-Lite (Google 2020, after Tan & Le 2019) is EfficientNet for edge devices: no squeeze-and-excitation, ReLU6,
a stem and a head of fixed width; so it quantises well and runs on everything. Its published weights are a starting
point (``starts/efficientnet_lite.py``), and a member inherits them: images of another resolution, residual blocks left
out, inner channels left out (the first ones are kept: whoever loads weights puts the important ones there), late stages
cut. The full network is the largest member.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, ClassVar

from hwautoml.core.elastic_space import ElasticSpace
from hwautoml.core.layer import HEAD, Layer, LayerCost
from hwautoml.core.space import Architecture, Choice, Value
from hwautoml.errors import InvalidValueError
from hwautoml.spaces.convolution import Convolution, cost_of, strided

if TYPE_CHECKING:
    from torch import nn

GRAIN = 32  # the network halves its maps five times
MIN_RESOLUTION, MAX_RESOLUTION = 64, 288
EXPANSIONS = (3, 4, 6)
STEM_WIDTH, TOP_WIDTH = 32, 1280
KEPT_STAGES = (5, 6, 7)  # of seven; without the last there is no top either


@dataclass(frozen=True)
class Stage:
    """``stride`` is its first block's; ``expansion`` the full network's."""

    width: int
    num_blocks: int
    kernel: int
    stride: int
    expansion: int = 6


@dataclass(frozen=True)
class EfficientNetLiteSpace(ElasticSpace):
    """Raises InvalidValueError for an image size that is no multiple of 32 in 64..288, no RGB, or no output."""

    stages: ClassVar[tuple[Stage, ...]]
    image_size: int
    channels: int
    num_outputs: int

    def __post_init__(self) -> None:
        if self.image_size % GRAIN or not MIN_RESOLUTION <= self.image_size <= MAX_RESOLUTION:
            raise InvalidValueError(
                f"image size {self.image_size} must be a multiple of {GRAIN} from {MIN_RESOLUTION} to {MAX_RESOLUTION}",
                fix="--image-size 224",
            )
        if self.channels != 3:
            raise InvalidValueError(
                f"EfficientNet-Lite takes RGB images, got {self.channels} channels", fix="--channels rgb"
            )
        if self.num_outputs < 1:
            raise InvalidValueError(f"a network needs at least 1 output, got {self.num_outputs}")

    @cached_property
    def resolutions(self) -> tuple[int, ...]:
        return tuple(range(MIN_RESOLUTION, self.image_size + 1, GRAIN))

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        choices = [Choice("resolution", self.resolutions), Choice("stages", KEPT_STAGES)]
        for index, stage in enumerate(self.stages):
            if stage.num_blocks > 1:
                choices.append(Choice(f"stage{index}.depth", tuple(range(1, stage.num_blocks + 1))))
            if stage.expansion > 1:
                choices.append(Choice(f"stage{index}.expansion", EXPANSIONS))
        return tuple(choices)

    def canonical(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Choices of stages that are cut have no effect."""
        kept = int(values["stages"])
        cut = {c.name for c in self.choices if "." in c.name and int(c.name.split(".")[0][len("stage") :]) >= kept}
        first = {choice.name: choice.options[0] for choice in self.choices}
        return {name: first[name] if name in cut else value for name, value in values.items()}

    def resolution(self, architecture: Architecture) -> int:
        return int(architecture["resolution"])

    def placed_layers(self, architecture: Architecture) -> tuple[tuple[str, Layer], ...]:
        values = architecture.as_dict
        side, width = int(values["resolution"]), STEM_WIDTH
        placed = [("stem", _layer("stem", self.channels, side, width, kernel=3, stride=2))]
        side = strided(side, 2)
        for index, stage in enumerate(self.stages[: int(values["stages"])]):
            expansion = int(values.get(f"stage{index}.expansion", stage.expansion))
            for block in range(int(values.get(f"stage{index}.depth", 1))):
                stride = stage.stride if block == 0 else 1
                layer = _layer("mbconv", width, side, stage.width, stage.kernel, expansion, stride)
                placed.append((f"stage{index}_block{block}", layer))
                side, width = strided(side, stride), stage.width
        if int(values["stages"]) == len(self.stages):
            placed.append(("top", _layer("top", width, side, TOP_WIDTH)))
            width = TOP_WIDTH
        placed.append(("head", _layer(HEAD, width, side, self.num_outputs)))
        return tuple(placed)

    def all_layers(self) -> tuple[Layer, ...]:
        return tuple(dict.fromkeys(layer for side in self.resolutions for layer in self._layers_at(side)))

    def _layers_at(self, side: int) -> Iterator[Layer]:
        yield _layer("stem", self.channels, side, STEM_WIDTH, kernel=3, stride=2)
        side, width = strided(side, 2), STEM_WIDTH
        for index, stage in enumerate(self.stages, start=1):
            out_side = strided(side, stage.stride)
            for expansion in EXPANSIONS if stage.expansion > 1 else (1,):
                yield _layer("mbconv", width, side, stage.width, stage.kernel, expansion, stage.stride)
                if stage.num_blocks > 1:
                    yield _layer("mbconv", stage.width, out_side, stage.width, stage.kernel, expansion, 1)
            side, width = out_side, stage.width
            if index in KEPT_STAGES[:-1]:
                yield _layer(HEAD, width, side, self.num_outputs)
        yield _layer("top", width, side, TOP_WIDTH)
        yield _layer(HEAD, TOP_WIDTH, side, self.num_outputs)

    def shared_layers(self) -> Mapping[str, Mapping[str, Layer]]:
        """The full network; of a head the weights of the widest."""
        return {position: {layer.kind: layer} for position, layer in self.placed_layers(self.largest())}

    def cost(self, layer: Layer) -> LayerCost:
        return _cost(layer)

    def layer_module(self, layer: Layer) -> nn.Module:
        from hwautoml.spaces.efficientnet_lite_modules import build_layer

        return build_layer(layer)

    def residual_norms(self, layer: Layer) -> tuple[str, ...]:
        is_residual = layer.kind == "mbconv" and layer.stride == 1 and layer.in_channels == layer.out_channels
        return ("project.norm",) if is_residual else ()


@dataclass(frozen=True)
class EfficientNetLite0(EfficientNetLiteSpace):
    identity = "efficientnet-lite0/v1"
    published = ((224, 3, 1000),)
    stages = (
        Stage(16, 1, 3, 1, expansion=1),
        Stage(24, 2, 3, 2),
        Stage(40, 2, 5, 2),
        Stage(80, 3, 3, 2),
        Stage(112, 3, 5, 1),
        Stage(192, 4, 5, 2),
        Stage(320, 1, 3, 1),
    )


@dataclass(frozen=True)
class EfficientNetLite1(EfficientNetLiteSpace):
    identity = "efficientnet-lite1/v1"
    published = ((256, 3, 1000),)
    stages = (
        Stage(16, 1, 3, 1, expansion=1),
        Stage(24, 3, 3, 2),
        Stage(40, 3, 5, 2),
        Stage(80, 4, 3, 2),
        Stage(112, 4, 5, 1),
        Stage(192, 5, 5, 2),
        Stage(320, 1, 3, 1),
    )


@dataclass(frozen=True)
class EfficientNetLite2(EfficientNetLiteSpace):
    identity = "efficientnet-lite2/v1"
    published = ((256, 3, 1000),)
    stages = (
        Stage(16, 1, 3, 1, expansion=1),
        Stage(24, 3, 3, 2),
        Stage(48, 3, 5, 2),
        Stage(88, 4, 3, 2),
        Stage(120, 4, 5, 1),
        Stage(208, 5, 5, 2),
        Stage(352, 1, 3, 1),
    )


def _layer(kind: str, width: int, side: int, out: int, kernel: int = 1, expansion: int = 1, stride: int = 1) -> Layer:
    return Layer(kind, width, side, side, out, kernel, expansion, stride, activation="relu6")


@cache
def _cost(layer: Layer) -> LayerCost:
    """Multiply-accumulates and fp32 traffic of a layer's convolutions, one kernel each."""
    side, out_side = layer.height, strided(layer.height, layer.stride)
    into, out, kernel = layer.in_channels, layer.out_channels, layer.kernel_size
    if layer.is_head:
        return cost_of([Convolution(into, out, 1, side, 1)], layer.batch)
    if layer.kind != "mbconv":
        return cost_of([Convolution(into, out, kernel, side, out_side)], layer.batch)
    inner = layer.expansion * into
    expand = [Convolution(into, inner, 1, side, side)] if layer.expansion > 1 else []
    depthwise = Convolution(inner, inner, kernel, side, out_side, groups=inner)
    return cost_of([*expand, depthwise, Convolution(inner, out, 1, out_side, out_side)], layer.batch)
