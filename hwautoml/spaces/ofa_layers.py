"""The layers of the ``ofa-mobilenetv3`` space: their widths, and what they cost."""

from __future__ import annotations

from functools import cache

from hwautoml.core.layer import HEAD, Layer, LayerCost
from hwautoml.errors import InvalidValueError
from hwautoml.spaces.convolution import Convolution, cost_of, strided


def make_divisible(channels: float) -> int:
    """The nearest multiple of 8 that is not more than a tenth smaller (MobileNet's rule)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


@cache
def layer_cost(layer: Layer) -> LayerCost:
    """Raises InvalidValueError for a layer of another space."""
    into, out, kernel, side = layer.in_channels, layer.out_channels, layer.kernel_size, layer.height
    out_side, inner = strided(side, layer.stride), layer.expansion * into
    if layer.kind in ("stem", "final"):
        convolutions = [Convolution(into, out, kernel, side, out_side)]
    elif layer.kind in ("mbconv", "mbconv_se"):
        convolutions = [Convolution(into, inner, 1, side, side)] if layer.expansion > 1 else []
        convolutions.append(Convolution(inner, inner, kernel, side, out_side, groups=inner))
        if layer.kind == "mbconv_se":
            squeezed = make_divisible(inner // 4)
            convolutions += [Convolution(inner, squeezed, 1, out_side, 1), Convolution(squeezed, inner, 1, 1, 1)]
        convolutions.append(Convolution(inner, out, 1, out_side, out_side))
    elif layer.kind in ("mix", HEAD):
        convolutions = [Convolution(into, out, 1, side, 1, has_bias=layer.is_head)]
    else:
        raise InvalidValueError(f"layer kind {layer.kind!r} is not of the ofa-mobilenetv3 space")
    return cost_of(convolutions, layer.batch)
