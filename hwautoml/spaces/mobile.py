"""The ``mobile`` space: stages of blocks for square images from 8 to 224 pixels.

Each stage chooses its block kind, depth and width; each block its kernel and expansion; the
network its input resolution. Three kinds of blocks compete, because depthwise convolutions
are cheap on some targets and slow on others, and only the target's latency table can tell:

========== ============================================================ ==================
kind       operations                                                   inner channels
========== ============================================================ ==================
mbconv     1x1 expand, kxk depthwise, 1x1 project (MobileNetV2, 2018)    e x in
mbconv_se  the same with squeeze-and-excitation (MobileNetV3, 2019)      e x in
fused      kxk dense expand, 1x1 project (EfficientNetV2, 2021)          e x in
basic      kxk dense, kxk dense, shortcut (ResNet, 2015)                 e x out / 2
========== ============================================================ ==================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial, reduce
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.elastic_space import ElasticSpace
from hwautoml.core.layer import HEAD, Layer, LayerCost
from hwautoml.core.space import Architecture, Choice, Value
from hwautoml.errors import InvalidValueError
from hwautoml.spaces.convolution import strided
from hwautoml.spaces.indexing import Table, index_table, look_up, positions
from hwautoml.spaces.mobile_layers import DEPTHWISE_KINDS, KINDS, layer_cost

if TYPE_CHECKING:
    from torch import nn

# Dense blocks cost about in^2 k^2 e: larger kernels and expansions than these never pay.
EXPANSIONS: dict[str, tuple[int, ...]] = {"mbconv": (1, 2, 4), "mbconv_se": (1, 2, 4), "fused": (1, 2), "basic": (1, 2)}
MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 8, 224


@dataclass(frozen=True)
class Stage:
    """``stride`` applies to its first block; ``map_size`` is its output side at full resolution."""

    index: int
    stride: int
    map_size: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    kernels: tuple[int, ...]

    @property
    def max_depth(self) -> int:
        return self.depths[-1]


@dataclass(frozen=True)
class MobileSpace(ElasticSpace):
    """Raises InvalidValueError for an image size outside 8..224, channels not 1 or 3, or no output."""

    identity = "mobile/v1"
    image_size: int
    channels: int
    num_outputs: int

    def __post_init__(self) -> None:
        if not MIN_IMAGE_SIZE <= self.image_size <= MAX_IMAGE_SIZE:
            raise InvalidValueError(
                f"image size {self.image_size} must be between {MIN_IMAGE_SIZE} and {MAX_IMAGE_SIZE}",
                fix="--image-size 32",
            )
        if self.channels not in (1, 3):
            raise InvalidValueError(f"channels must be 1 (grey) or 3 (RGB), got {self.channels}")
        if self.num_outputs < 1:
            raise InvalidValueError(f"a network needs at least 1 output, got {self.num_outputs}")

    @cached_property
    def stem_width(self) -> int:
        return 16 if self.image_size < 96 else 24

    @cached_property
    def stem_stride(self) -> int:
        return 1 if self.image_size < 48 else 2

    @cached_property
    def resolutions(self) -> tuple[int, ...]:
        size, grain = self.image_size, 2 if self.image_size < 24 else 4
        fractions = (0.75, 1.0) if size < 24 else (0.75, 0.875, 1.0)
        return tuple(sorted({size if f == 1.0 else max(round(size * f / grain) * grain, grain) for f in fractions}))

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        size = self.image_size
        widths: tuple[tuple[int, ...], ...]
        depths: tuple[tuple[int, ...], ...]
        if size < 24:
            widths, depths = ((16, 24), (32, 48), (48, 64)), ((1, 2),) * 3
        elif size < 96:
            widths, depths = ((16, 24), (32, 48), (64, 96), (96, 128)), ((1, 2), (1, 2, 3), (1, 2, 3), (1, 2))
        else:
            widths, depths = ((24, 32), (48, 64), (96, 128), (160, 224)), ((1, 2), (1, 2, 3), (1, 2, 3, 4), (1, 2, 3))
        stages, map_size = [], strided(size, self.stem_stride)
        for index, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            stride = 1 if index == 0 and map_size <= 32 else 2
            map_size = strided(map_size, stride)
            kernels = tuple(k for k, smallest in ((3, 0), (5, 8), (7, 14)) if map_size >= smallest)
            stages.append(Stage(index, stride, map_size, width, depth, kernels))
        return tuple(stages)

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        choices = [Choice("resolution", self.resolutions)]
        for stage in self.stages:
            prefix = f"stage{stage.index}"
            choices += [
                Choice(f"{prefix}.kind", KINDS, is_ordered=False),
                Choice(f"{prefix}.depth", stage.depths),
                Choice(f"{prefix}.width", stage.widths),
            ]
            for block in range(stage.max_depth):
                choices += [
                    Choice(f"{prefix}.block{block}.kernel", stage.kernels),
                    Choice(f"{prefix}.block{block}.expansion", EXPANSIONS["mbconv"]),
                ]
        return tuple(choices)

    def canonical(self, values: Mapping[str, Value]) -> dict[str, Value]:
        result = dict(values)
        for stage in self.stages:
            prefix = f"stage{stage.index}"
            kind = str(values[f"{prefix}.kind"])
            for block in range(stage.max_depth):
                kernel, expansion = f"{prefix}.block{block}.kernel", f"{prefix}.block{block}.expansion"
                is_active = block < int(values[f"{prefix}.depth"])
                if not is_active or kind not in DEPTHWISE_KINDS:
                    result[kernel] = stage.kernels[0]
                if not is_active:
                    result[expansion] = EXPANSIONS[kind][0]
                else:
                    result[expansion] = min(int(values[expansion]), EXPANSIONS[kind][-1])
        return result

    def resolution(self, architecture: Architecture) -> int:
        return int(architecture["resolution"])

    def placed_layers(self, architecture: Architecture) -> tuple[tuple[str, Layer], ...]:
        values = architecture.as_dict
        size, width = int(values["resolution"]), self.stem_width
        placed = [("stem", _layer("stem", self.channels, size, width, 3, 1, self.stem_stride))]
        size = strided(size, self.stem_stride)
        for stage in self.stages:
            prefix = f"stage{stage.index}"
            kind, out = str(values[f"{prefix}.kind"]), int(values[f"{prefix}.width"])
            for block in range(int(values[f"{prefix}.depth"])):
                stride = stage.stride if block == 0 else 1
                kernel = int(values[f"{prefix}.block{block}.kernel"])
                expansion = int(values[f"{prefix}.block{block}.expansion"])
                placed.append((f"{prefix}_block{block}", _layer(kind, width, size, out, kernel, expansion, stride)))
                size, width = strided(size, stride), out
        placed.append(("head", _layer(HEAD, width, size, self.num_outputs)))
        return tuple(placed)

    def all_layers(self) -> tuple[Layer, ...]:
        layers: dict[Layer, None] = {}
        for resolution in self.resolutions:
            layers.update(dict.fromkeys(self._layers_at(resolution)))
        return tuple(layers)

    def _layers_at(self, resolution: int) -> Iterator[Layer]:
        yield _layer("stem", self.channels, resolution, self.stem_width, 3, 1, self.stem_stride)
        size = strided(resolution, self.stem_stride)
        in_widths: tuple[int, ...] = (self.stem_width,)
        for stage in self.stages:
            out_size = strided(size, stage.stride)
            for kind in KINDS:
                kernels = stage.kernels if kind in DEPTHWISE_KINDS else stage.kernels[:1]
                for kernel in kernels:
                    for expansion in EXPANSIONS[kind]:
                        for out in stage.widths:
                            for width in in_widths:
                                yield _layer(kind, width, size, out, kernel, expansion, stage.stride)
                            if stage.max_depth > 1:
                                yield _layer(kind, out, out_size, out, kernel, expansion, 1)
            size, in_widths = out_size, stage.widths
        for width in in_widths:
            yield _layer(HEAD, width, size, self.num_outputs)

    def layer_indices(self, encodings: NDArray[np.integer]) -> NDArray[np.int64]:
        chosen = dict(zip((c.name for c in self.choices), self.checked_encodings(encodings).T.copy(), strict=True))
        stem, stages, head = self._index_tables
        resolution, width, free = chosen["resolution"], np.zeros(len(encodings), np.int64), len(self.all_layers())
        indices = [stem[resolution]]
        for stage, (first, later) in zip(self.stages, stages, strict=True):
            prefix = f"stage{stage.index}"
            kind, out = chosen[f"{prefix}.kind"], chosen[f"{prefix}.width"]
            depth = np.array(stage.depths)[chosen[f"{prefix}.depth"]]
            for block in range(stage.max_depth):
                shape = chosen[f"{prefix}.block{block}.kernel"], chosen[f"{prefix}.block{block}.expansion"]
                if block == 0:
                    found = look_up(first, resolution, width, kind, out, *shape)
                else:
                    found = look_up(later, resolution, kind, out, *shape)
                indices.append(np.where(block < depth, found, free))
            width = out
        return np.stack([*indices, look_up(head, resolution, width)]).T

    @cached_property
    def _index_tables(self) -> tuple[Table, list[tuple[Table, Table]], Table]:
        """Positions in ``all_layers()`` by option indices, for stem, stages (first block, later ones) and head."""
        index, stages = positions(self.all_layers()), []
        in_widths: tuple[int, ...] = (self.stem_width,)
        for stage in self.stages:
            options = (KINDS, stage.widths, stage.kernels, EXPANSIONS["mbconv"])
            first = index_table(index, partial(self._first_block, stage), self.resolutions, in_widths, *options)
            later = index_table(index, partial(self._later_block, stage), self.resolutions, *options)
            stages.append((first, later))
            in_widths = stage.widths
        head = index_table(index, self._head, self.resolutions, in_widths)
        return index_table(index, self._stem, self.resolutions), stages, head

    # One layer each from the values that choose it, whether or not these are canonical.

    def _stem(self, resolution: int) -> Layer:
        return _layer("stem", self.channels, resolution, self.stem_width, 3, 1, self.stem_stride)

    def _first_block(
        self, stage: Stage, resolution: int, width: int, kind: str, out: int, kernel: int, expansion: int
    ) -> Layer:
        kernel = kernel if kind in DEPTHWISE_KINDS else stage.kernels[0]
        expansion = min(expansion, EXPANSIONS[kind][-1])
        return _layer(kind, width, self._side(resolution, stage.index), out, kernel, expansion, stage.stride)

    def _later_block(self, stage: Stage, resolution: int, kind: str, out: int, kernel: int, expansion: int) -> Layer:
        first = self._first_block(stage, resolution, out, kind, out, kernel, expansion)
        side = self._side(resolution, stage.index + 1)
        return _layer(kind, out, side, out, first.kernel_size, first.expansion)

    def _head(self, resolution: int, width: int) -> Layer:
        return _layer(HEAD, width, self._side(resolution, len(self.stages)), self.num_outputs)

    def _side(self, resolution: int, num_stages: int) -> int:
        """Side of the feature map after the stem and so many stages."""
        strides = (stage.stride for stage in self.stages[:num_stages])
        return reduce(strided, strides, strided(resolution, self.stem_stride))

    def shared_layers(self) -> dict[str, dict[str, Layer]]:
        """Per position the largest layer of each kind of weights: what a supernet holds.

        ``mbconv`` shares its weights with ``mbconv_se`` and is listed under the latter's name.
        """
        size = strided(self.image_size, self.stem_stride)
        shared = {
            "stem": {"stem": _layer("stem", self.channels, self.image_size, self.stem_width, 3, 1, self.stem_stride)}
        }
        width = self.stem_width
        for stage in self.stages:
            out = stage.widths[-1]
            for block in range(stage.max_depth):
                stride = stage.stride if block == 0 else 1
                shared[f"stage{stage.index}_block{block}"] = {
                    kind: _layer(
                        kind,
                        width,
                        size,
                        out,
                        stage.kernels[-1] if kind in DEPTHWISE_KINDS else stage.kernels[0],
                        EXPANSIONS[kind][-1],
                        stride,
                    )
                    for kind in KINDS
                    if kind != "mbconv"
                }
                size, width = strided(size, stride), out
        shared["head"] = {HEAD: _layer(HEAD, width, size, self.num_outputs)}
        return shared

    def weights_kind(self, layer: Layer) -> str:
        """Under which name of ``shared_layers`` the layer finds its weights."""
        return "mbconv_se" if layer.kind == "mbconv" else layer.kind

    def residual_norms(self, layer: Layer) -> tuple[str, ...]:
        if layer.kind not in KINDS:
            return ()
        return ("second.norm",) if layer.kind == "basic" else ("project.norm",)

    def cost(self, layer: Layer) -> LayerCost:
        return layer_cost(layer)

    def layer_module(self, layer: Layer) -> nn.Module:
        from hwautoml.spaces.blocks import build_block

        return build_block(layer)


@cache
def _layer(
    kind: str, in_channels: int, size: int, out: int, kernel: int = 1, expansion: int = 1, stride: int = 1
) -> Layer:
    """Cached: searches ask for the same few thousand layers a million times."""
    return Layer(kind, in_channels, size, size, out, kernel, expansion, stride)
