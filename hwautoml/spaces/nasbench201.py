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

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.layer import HEAD, Layer, LayerCost
from hwautoml.core.space import Architecture, Choice, SearchSpace
from hwautoml.errors import InvalidValueError
from hwautoml.spaces.indexing import index_table, positions
from hwautoml.spaces.nasbench201_layers import (
    EDGES,
    NUM_CELLS,
    OPERATIONS,
    WIDTHS,
    Edge,
    cell_layers,
    edge_name,
    layer_cost,
    live_edges,
    make_layer,
    operation_layer,
)
from hwautoml.spaces.sizes import require_published

if TYPE_CHECKING:
    from torch import nn

_NONE = OPERATIONS.index("none")
_MOST_ADDS = 3  # one into node 2, two into node 3


@dataclass(frozen=True)
class NasBench201Space(SearchSpace):
    """Raises InvalidValueError for images or classes that the benchmark was not made for."""

    identity = "nasbench201/v1"
    published = ((32, 3, 10), (32, 3, 100), (16, 3, 120))  # CIFAR-10, CIFAR-100, ImageNet16-120
    image_size: int = 32
    channels: int = 3
    num_outputs: int = 10

    def __post_init__(self) -> None:
        require_published(self)

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        return tuple(Choice(edge_name(source, target), OPERATIONS) for source, target in EDGES)

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
            layers += cell_layers(edges, width, self._side(stage)) * NUM_CELLS
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
            yield from (make_layer(kind, width, side, width) for kind in ("add", "zero"))
        yield self._head

    def layer_indices(self, encodings: NDArray[np.integer]) -> NDArray[np.int64]:
        options = self.checked_encodings(encodings)
        live = live_edges(options != _NONE)
        num_adds = np.sum([np.maximum(inputs - 1, 0) for inputs in _num_live_inputs(live)], axis=0)
        index, free = positions(self.all_layers()), len(self.all_layers())
        fixed = np.array([index[layer] for layer in (self._stem, self._reduction(1), self._reduction(2), self._head)])
        slots = [np.broadcast_to(fixed, (len(options), len(fixed))), self._operation_indices(options, live)]
        for stage, width in enumerate(WIDTHS):
            add, zero = (index[make_layer(kind, width, self._side(stage), width)] for kind in ("add", "zero"))
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
        return make_layer("stem", self.channels, self.image_size, WIDTHS[0], 3, activation="none")

    def _reduction(self, stage: int) -> Layer:
        """In front of ``stage``."""
        return make_layer("reduction", WIDTHS[stage - 1], self._side(stage - 1), WIDTHS[stage], 3, stride=2)

    @property
    def _head(self) -> Layer:
        return make_layer(HEAD, WIDTHS[-1], self._side(len(WIDTHS) - 1), self.num_outputs)

    def _side(self, stage: int) -> int:
        return self.image_size >> stage


def to_string(architecture: Architecture) -> str:
    """The benchmark's notation."""
    nodes = ["|".join(f"{architecture[edge_name(s, t)]}~{s}" for s, t in EDGES if t == target) for target in (1, 2, 3)]
    return "+".join(f"|{node}|" for node in nodes)


def _num_live_inputs(live: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Of the nodes 1, 2 and 3, each (n,), for live edges (n, 6)."""
    targets = np.array([target for _, target in EDGES])
    return [live[:, targets == node].sum(axis=1) for node in (1, 2, 3)]
