"""The layers of the ``mobile`` space: what decides their size, and what they cost."""

from __future__ import annotations

from functools import cache

from hwautoml.core.layer import Layer, LayerCost
from hwautoml.errors import InvalidValueError
from hwautoml.spaces.convolution import Convolution, cost_of, strided

KINDS = ("mbconv", "mbconv_se", "fused", "basic")
DEPTHWISE_KINDS = ("mbconv", "mbconv_se")


def inner_channels(layer: Layer) -> int:
    """Channels between the first and the last convolution of a block."""
    if layer.kind == "basic":
        return layer.expansion * layer.out_channels // 2
    return layer.expansion * layer.in_channels


def squeeze_channels(inner: int) -> int:
    """Bottleneck of squeeze-and-excitation: a quarter, in multiples of 8 that vectorise well."""
    return max(8, inner // 4 // 8 * 8)


@cache
def layer_cost(layer: Layer) -> LayerCost:
    """Multiply-accumulates and fp32 traffic of a layer's convolutions, one kernel each."""
    size, out_size = layer.height, strided(layer.height, layer.stride)
    inner, out, kernel, into = inner_channels(layer), layer.out_channels, layer.kernel_size, layer.in_channels
    convs: list[Convolution]
    if layer.kind == "stem":
        convs = [Convolution(into, out, kernel, size, out_size)]
    elif layer.kind in DEPTHWISE_KINDS:
        convs = [Convolution(into, inner, 1, size, size)] if layer.expansion > 1 else []
        convs.append(Convolution(inner, inner, kernel, size, out_size, groups=inner))
        if layer.kind == "mbconv_se":
            squeezed = squeeze_channels(inner)
            convs += [Convolution(inner, squeezed, 1, out_size, 1), Convolution(squeezed, inner, 1, 1, 1)]
        convs.append(Convolution(inner, out, 1, out_size, out_size))
    elif layer.kind == "fused":
        convs = [Convolution(into, inner, kernel, size, out_size), Convolution(inner, out, 1, out_size, out_size)]
    elif layer.kind == "basic":
        convs = [Convolution(into, inner, kernel, size, out_size), Convolution(inner, out, kernel, out_size, out_size)]
        if layer.stride > 1 or into != out:
            convs.append(Convolution(into, out, 1, size, out_size))
    elif layer.is_head:
        convs = [Convolution(into, out, 1, size, 1)]
    else:
        raise InvalidValueError(f"layer kind {layer.kind!r} is not of the mobile space")
    return cost_of(convs, layer.batch)
