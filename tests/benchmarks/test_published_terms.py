from __future__ import annotations

import numpy as np
import pytest

from benchmarks.published_terms import published_terms
from hwautoml.core.latency_components import DEAD
from hwautoml.spaces import load_space
from hwautoml.spaces.nasbench201_layers import NUM_CELLS, OPERATIONS


def cells(*operations: str) -> np.ndarray:
    return np.array([[OPERATIONS.index(name) for name in row.split()] for row in operations])


def test_every_edge_of_a_cell_is_executed_live_or_dead() -> None:
    space = load_space("nasbench201")
    rng = np.random.default_rng(0)
    encodings = rng.integers(0, space.num_options, size=(50, 6))
    terms = published_terms(space, encodings)
    is_edge = np.array(
        [
            any(word in layer.kind for word in ("conv", "pool", "none", "skip")) and layer.kind not in ("stem", "head")
            for layer in terms.layers
        ]
    )
    assert terms.counts[:, :-1][:, is_edge].sum(axis=1) == pytest.approx(np.full(50, 6 * 3 * NUM_CELLS))
    assert bool((terms.counts[:, -1] == 1).all())


def test_an_operation_behind_an_empty_edge_is_dead() -> None:
    """0→1 is none, so 1→2 and 1→3 compute what is zero."""
    space = load_space("nasbench201")
    terms = published_terms(space, cells("none skip_connect nor_conv_3x3 skip_connect avg_pool_3x3 skip_connect"))
    count = {layer.kind: 0.0 for layer in terms.layers}
    for layer, number in zip(terms.layers, terms.counts[0], strict=False):
        count[layer.kind] += number
    assert count[DEAD + "relu_conv"] == count[DEAD + "avgpool"] == count["none"] == 3 * NUM_CELLS
    assert count["skip_connect"] == 9 * NUM_CELLS
    assert "relu_conv" not in count and "avgpool" not in count


def test_other_spaces_have_their_layers_and_their_work() -> None:
    space = load_space("fbnet")
    rng = np.random.default_rng(0)
    encodings = rng.integers(0, space.num_options, size=(20, len(space.choices)))
    terms = published_terms(space, encodings)
    totals = [space.total_cost(space.decode(row)) for row in encodings]
    assert terms.counts[:, :-1] @ terms.work.macs == pytest.approx([total.macs for total in totals])
    assert terms.counts[:, :-1] @ terms.work.depthwise_macs == pytest.approx([t.depthwise_macs for t in totals])
    assert all(0 < total.depthwise_macs < total.macs for total in totals)
