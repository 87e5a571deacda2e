"""The layers of the ``fbnet`` space: their groups, and what they cost."""

from __future__ import annotations

from functools import cache

from hwautoml.core.layer import Layer, LayerCost
from hwautoml.errors import InvalidValueError
from hwautoml.spaces.convolution import Convolution, cost_of, strided


def num_groups(layer: Layer) -> int:
    """Of a block's 1x1 convolutions."""
    return 2 if layer.kind == "block_g2" else 1


@cache
def layer_cost(layer: Layer) -> LayerCost:
    """Raises InvalidValueError for a layer of another space."""
    into, out, kernel, side = layer.in_channels, layer.out_channels, layer.kernel_size, layer.height
    out_side = strided(side, layer.stride)
    if layer.kind in ("stem", "skip", "final"):
        return cost_of([Convolution(into, out, kernel, side, out_side)], layer.batch)
    if layer.kind in ("block", "block_g2"):
        inner, groups = layer.expansion * into, num_groups(layer)
        convolutions = [
            Convolution(into, inner, 1, side, side, groups),
            Convolution(inner, inner, kernel, side, out_side, inner),
            Convolution(inner, out, 1, out_side, out_side, groups),
        ]
        return cost_of(convolutions, layer.batch)
    if layer.is_head:
        return cost_of([Convolution(into, out, 1, side, 1)], layer.batch)
    raise InvalidValueError(f"layer kind {layer.kind!r} is not of the fbnet space")
