"""The ``nasbench201`` space: all 15,625 cells of NAS-Bench-201 (Dong & Yang, ICLR 2020).

A cell has four nodes and an operation on each of its six edges; a node is the sum of the edges
into it, node 0 is the cell's input, node 3 its output. The network around it is fixed: a 3x3
convolution, three stages of five equal cells with 16, 32 and 64 channels, a residual block of
stride 2 between stages, BatchNorm-ReLU-pool-linear at the end.

Many edges are dead: they carry nothing from the input to the output, because an edge next to
them is ``none``. A runtime that optimises graphs drops them, an eager one computes them. (In the
benchmark's trained networks a convolution whose source is empty adds its norm's bias, a constant
per channel, to the output: the one thing that is left out here with the dead edges.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.layer import Layer, LayerCost
from hwautoml.core.space import Architecture, Choice, SearchSpace
from hwautoml.errors import InvalidValueError
from hwautoml.spaces.convolution import Convolution, cost_of
from hwautoml.spaces.indexing import index_table, positions
from hwautoml.spaces.sizes import require_published

if TYPE_CHECKING:
    from torch import nn

EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # (source, target), targets ascending as in the benchmark
OPERATIONS = ("none", "skip_connect", "avg_pool_3x3", "nor_conv_1x1", "nor_conv_3x3")  # cheapest first
WIDTHS = (16, 32, 64)
NUM_CELLS = 5  # per stage
# CIFAR-10, CIFAR-100, ImageNet16-120
PUBLISHED = ((32, 3, 10), (32, 3, 100), (16, 3, 120))
_NONE = OPERATIONS.index("none")
_MOST_ADDS = 3  # one into node 2, two into node 3


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


@dataclass(frozen=True)
class NasBench201Space(SearchSpace):
    """Raises InvalidValueError for images or classes that the benchmark was not made for."""

    image_size: int = 32
    channels: int = 3
    num_classes: int = 10

    def __post_init__(self) -> None:
        require_published("nasbench201", self.image_size, self.channels, self.num_classes, PUBLISHED)

    @property
    def family(self) -> str:
        """What a latency table is made for: everything but the number of classes."""
        return f"nasbench201/v1/{self.image_size}x{self.image_size}x{self.channels}"

    @cached_property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.family}/classes{self.num_classes}"

    @cached_property
    def choices(self) -> tuple[Choice, ...]:  # type: ignore[override]
        return tuple(Choice(edge_name(source, target), OPERATIONS) for source, target in EDGES)

    def resolution(self, architecture: Architecture) -> int:
        return self.image_size

    def from_string(self, text: str) -> Architecture:
        """From the benchmark's notation, ``|nor_conv_3x3~0|+|none~0|skip_connect~1|+|...|``.

        Raises:
            InvalidValueError: it is not of that form, or has an unknown operation.
        """
        parts = [part for node in text.split("+") for part in node.strip("|").split("|")]
        values = {}
        for part, (source, target) in zip(parts, EDGES, strict=False):
            values[edge_name(source, target)] = part.removesuffix(f"~{source}")
        architecture = self.architecture(values)
        if to_string(architecture) != text:
            raise InvalidValueError(f"{text!r} is no NAS-Bench-201 cell; expected e.g. {to_string(self.largest())!r}")
        return architecture

    def edges(self, architecture: Architecture) -> tuple[Edge, ...]:
        """The six edges in the order of ``EDGES``."""
        operations = [str(value) for _, value in architecture.values]
        live = live_edges(np.array([operation != "none" for operation in operations]))
        return tuple(
            Edge(source, target, operation, bool(is_live))
            for (source, target), operation, is_live in zip(EDGES, operations, live, strict=True)
        )

    def layers(self, architecture: Architecture) -> tuple[Layer, ...]:
        """What a runtime executes that drops dead edges; skips of both kinds cost nothing.

        A cell without any live edge multiplies its input by 0, as the benchmark's code does.
        """
        edges = self.edges(architecture)
        layers = [self._stem]
        for stage, width in enumerate(WIDTHS):
            layers += [self._reduction(stage)] if stage else []
            layers += _cell_layers(edges, width, self._side(stage)) * NUM_CELLS
        return (*layers, self._head)

    def dead_layers(self, architecture: Architecture) -> tuple[Layer, ...]:
        """What an eager runtime executes besides ``layers``: convolutions and pools on dead edges."""
        dead = [edge.operation for edge in self.edges(architecture) if not edge.is_live]
        layers = [operation_layer(operation, w, self._side(s)) for s, w in enumerate(WIDTHS) for operation in dead]
        return tuple(layer for layer in layers if layer is not None for _ in range(NUM_CELLS))

    def all_layers(self) -> tuple[Layer, ...]:
        return tuple(self._every_layer())

    def _every_layer(self) -> Iterator[Layer]:
        yield self._stem
        for stage, width in enumerate(WIDTHS):
            side = self._side(stage)
            if stage:
                yield self._reduction(stage)
            yield from filter(None, (operation_layer(operation, width, side) for operation in OPERATIONS))
            yield from (_layer(kind, width, side, width) for kind in ("add", "zero"))
        yield self._head

    def layer_indices(self, encodings: NDArray[np.integer]) -> NDArray[np.int64]:
        options = self.checked_encodings(encodings)
        live = live_edges(options != _NONE)
        num_adds = np.sum([np.maximum(inputs - 1, 0) for inputs in _num_live_inputs(live)], axis=0)
        index, free = positions(self.all_layers()), len(self.all_layers())
        fixed = np.array([index[layer] for layer in (self._stem, self._reduction(1), self._reduction(2), self._head)])
        slots = [np.broadcast_to(fixed, (len(options), len(fixed))), self._operation_indices(options, live)]
        for stage, width in enumerate(WIDTHS):
            add, zero = (index[_layer(kind, width, self._side(stage), width)] for kind in ("add", "zero"))
            slots += [np.where(np.arange(_MOST_ADDS) < num_adds[:, None], add, free)] * NUM_CELLS
            slots += [np.where(live.any(axis=1, keepdims=True), free, zero)] * NUM_CELLS
        return np.hstack(slots)

    def dead_layer_indices(self, encodings: NDArray[np.integer]) -> NDArray[np.int64]:
        """As ``layer_indices``, for ``dead_layers``: an eager runtime executes both."""
        options = self.checked_encodings(encodings)
        return self._operation_indices(options, ~live_edges(options != _NONE))

    def _operation_indices(self, options: NDArray[np.int64], is_executed: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Positions in ``all_layers()`` of the operations on executed edges of all cells; (n, 6) to (n, slots)."""
        index, executed = positions(self.all_layers()), np.where(is_executed, options, _NONE)
        slots = []
        for stage, width in enumerate(WIDTHS):
            layer_of = partial(operation_layer, width=width, side=self._side(stage))
            slots += [index_table(index, layer_of, OPERATIONS)[executed]] * NUM_CELLS
        return np.hstack(slots)

    def cost(self, layer: Layer) -> LayerCost:
        return layer_cost(layer)

    def layer_module(self, layer: Layer) -> nn.Module:
        from hwautoml.spaces.nasbench201_modules import build_layer

        return build_layer(layer)

    def module(self, architecture: Architecture) -> nn.Module:
        """The benchmark's network without its dead edges: logits only, initialised as torch does."""
        from hwautoml.spaces.nasbench201_modules import Network

        reductions = [self._reduction(stage) for stage in (1, 2)]
        return Network(self.edges(architecture), self._stem, reductions, self._head)

    @property
    def _stem(self) -> Layer:
        return _layer("stem", self.channels, self.image_size, WIDTHS[0], 3, activation="none")

    def _reduction(self, stage: int) -> Layer:
        """In front of ``stage``."""
        return _layer("reduction", WIDTHS[stage - 1], self._side(stage - 1), WIDTHS[stage], 3, stride=2)

    @property
    def _head(self) -> Layer:
        return _layer("head", WIDTHS[-1], self._side(len(WIDTHS) - 1), self.num_classes)

    def _side(self, stage: int) -> int:
        return self.image_size >> stage


def edge_name(source: int, target: int) -> str:
    return f"edge{source}to{target}"


def to_string(architecture: Architecture) -> str:
    """The benchmark's notation."""
    nodes = ["|".join(f"{architecture[edge_name(s, t)]}~{s}" for s, t in EDGES if t == target) for target in (1, 2, 3)]
    return "+".join(f"|{node}|" for node in nodes)


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


def _num_live_inputs(live: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Of the nodes 1, 2 and 3, each (n,), for live edges (n, 6)."""
    targets = np.array([target for _, target in EDGES])
    return [live[:, targets == node].sum(axis=1) for node in (1, 2, 3)]


def operation_layer(operation: str, width: int, side: int) -> Layer | None:
    """None for an operation that nothing is computed for."""
    if operation == "avg_pool_3x3":
        return _layer("avgpool", width, side, width, 3, activation="none")
    if operation in ("nor_conv_1x1", "nor_conv_3x3"):
        return _layer("relu_conv", width, side, width, int(operation[-1]))
    return None


def _cell_layers(edges: Sequence[Edge], width: int, side: int) -> list[Layer]:
    live = [edge for edge in edges if edge.is_live]
    if not live:
        return [_layer("zero", width, side, width)]
    layers: list[Layer] = []
    for node in (1, 2, 3):
        inputs = [edge for edge in live if edge.target == node]
        computed = (operation_layer(edge.operation, width, side) for edge in inputs)
        layers += filter(None, computed)
        layers += [_layer("add", width, side, width)] * (len(inputs) - 1)
    return layers


@cache
def _layer(
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
    if layer.kind == "head":  # its norm follows a sum and cannot be folded
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
