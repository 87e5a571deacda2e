"""Tables that turn option indices into positions in ``all_layers()``, for ``layer_indices`` without Python loops."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.layer import Layer

Table = NDArray[np.int64]


def positions(layers: Sequence[Layer]) -> dict[Layer, int]:
    return {layer: position for position, layer in enumerate(layers)}


def index_table(index: Mapping[Layer, int], layer_of: Callable[..., Layer | None], *options: Sequence[Any]) -> Table:
    """``index[layer_of(...)]`` for every combination of options: one axis per argument, in their order.

    None, for no layer, becomes ``len(index)``, the mark of a free slot.
    """
    layers = (layer_of(*combination) for combination in itertools.product(*options))
    found = [len(index) if layer is None else index[layer] for layer in layers]
    return np.array(found, dtype=np.int64).reshape([len(values) for values in options])


def look_up(table: Table, *axes: NDArray[np.int64]) -> Table:
    """``table[axes]`` for index arrays (n,) that are known to be in range, in a third of the time."""
    flat = axes[0]
    for size, axis in zip(table.shape[1:], axes[1:], strict=True):
        flat = flat * size + axis
    return table.ravel().take(flat)
