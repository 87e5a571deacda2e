"""The cells and layers of the ``nasbench201`` space: edges and operations, which are live, and what layers cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.layer import Layer, LayerCost
from hwautoml.errors import InvalidValueError
from hwautoml.spaces.convolution import Convolution, cost_of

EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # (source, target), targets ascending as in the benchmark
OPERATIONS = ("none", "skip_connect", "avg_pool_3x3", "nor_conv_1x1", "nor_conv_3x3")  # cheapest first
WIDTHS = (16, 32, 64)
NUM_CELLS = 5  # per stage


@dataclass(frozen=True)
class Edge:
    """``is_live``: not ``none``, and on a path of such edges from node 0 to node 3."""

    source: int
    target: int
    operation: str
    is_live: bool

    @property
    def name(self) -> str:
        return edge_name(self.source, self.target)


def edge_name(source: int, target: int) -> str:
    return f"edge{source}to{target}"


def live_edges(is_present: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which edges lie on a path of present edges from node 0 to node 3; (..., 6) to (..., 6)."""
    is_present = np.asarray(is_present)
    filled, used = np.zeros((2, 4, *is_present.shape[:-1]), dtype=bool)
    filled[0], used[3] = True, True
    for position, (source, target) in enumerate(EDGES):
        filled[target] |= is_present[..., position] & filled[source]
    for position, (source, target) in reversed(list(enumerate(EDGES))):
        used[source] |= is_present[..., position] & used[target]
    ends = [filled[source] & used[target] for source, target in EDGES]
    return is_present & np.stack(ends, axis=-1)


def operation_layer(operation: str, width: int, side: int) -> Layer | None:
    """None for an operation that nothing is computed for."""
    if operation == "avg_pool_3x3":
        return make_layer("avgpool", width, side, width, 3, activation="none")
    if operation in ("nor_conv_1x1", "nor_conv_3x3"):
        return make_layer("relu_conv", width, side, width, int(operation[-1]))
    return None


def cell_layers(edges: Sequence[Edge], width: int, side: int) -> list[Layer]:
    live = [edge for edge in edges if edge.is_live]
    if not live:
        return [make_layer("zero", width, side, width)]
    layers: list[Layer] = []
    for node in (1, 2, 3):
        inputs = [edge for edge in live if edge.target == node]
        computed = (operation_layer(edge.operation, width, side) for edge in inputs)
        layers += filter(None, computed)
        layers += [make_layer("add", width, side, width)] * (len(inputs) - 1)
    return layers


@cache
def make_layer(
    kind: str, into: int, side: int, out: int, kernel: int = 1, *, stride: int = 1, activation: str = "relu"
) -> Layer:
    activation = "none" if kind in ("add", "zero") else activation
    return Layer(kind, into, side, side, out, kernel, 1, stride, activation)


@cache
def layer_cost(layer: Layer) -> LayerCost:
    """Additions and pools count as no multiply-accumulate, but as a kernel and as traffic.

    Raises:
        InvalidValueError: a layer of another space.
    """
    side, into, out, kernel = layer.height, layer.in_channels, layer.out_channels, layer.kernel_size
    if layer.kind in ("stem", "relu_conv"):
        return cost_of([Convolution(into, out, kernel, side, side)], layer.batch)
    if layer.kind in ("add", "zero", "avgpool"):
        moved = (3 if layer.kind == "add" else 2) * 4 * layer.batch * into * side**2
        return LayerCost(0, 0, moved, moved, 1)
    if layer.kind == "reduction":
        half = side // 2
        pool = LayerCost(0, 0, 4 * layer.batch * into * (side**2 + half**2), 0, 1)
        convolutions = [
            Convolution(into, out, kernel, side, half),
            Convolution(out, out, kernel, half, half),
            Convolution(into, out, 1, half, half, has_bias=False),
        ]
        return _sum(cost_of(convolutions, layer.batch), pool)
    if layer.is_head:  # its norm follows a sum and cannot be folded
        norm = LayerCost(0, 2 * into, 2 * 4 * layer.batch * into * side**2, 2 * 4 * layer.batch * into * side**2, 1)
        return _sum(norm, cost_of([Convolution(into, out, 1, side, 1)], layer.batch))
    raise InvalidValueError(f"layer kind {layer.kind!r} is not of the nasbench201 space")


def _sum(first: LayerCost, second: LayerCost) -> LayerCost:
    return LayerCost(
        first.macs + second.macs,
        first.parameters + second.parameters,
        first.bytes_moved + second.bytes_moved,
        max(first.peak_activation_bytes, second.peak_activation_bytes),
        first.num_kernels + second.num_kernels,
    )
