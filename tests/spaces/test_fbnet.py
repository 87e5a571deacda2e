from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hwautoml.core.space import Architecture
from hwautoml.spaces.fbnet import NUM_POSITIONS, OPERATIONS, FBNetSpace, position_layer
from hwautoml.spaces.fbnet_modules import shuffle

SMALL, LARGE = FBNetSpace(), FBNetSpace(224, 3, 1000)


def uniform(space: FBNetSpace, operation: str) -> Architecture:
    return space.architecture({choice.name: operation for choice in space.choices})


@pytest.mark.parametrize(
    ("space", "sides"),
    [
        (SMALL, [32, 32, *[32] * 3, 32, *[16] * 3, 16, *[8] * 3, 8, *[8] * 3, 8, *[4] * 3, 4]),
        (LARGE, [112, 112, *[56] * 3, 56, *[28] * 3, 28, *[14] * 3, 14, *[14] * 3, 14, *[7] * 3, 7]),
    ],
    ids=["small", "large"],
)
def test_sides_of_the_22_positions(space: FBNetSpace, sides: list[int]) -> None:
    assert [position.side for position in space.positions] == sides
    assert len(sides) == NUM_POSITIONS == 22
    assert space.size == 9**22


def test_skip_is_no_layer_only_where_the_shape_stays() -> None:
    kinds = [layer.kind for layer in SMALL.layers(uniform(SMALL, "skip"))]
    assert kinds == ["stem", *["skip"] * 6, "final", "head"], "one per stage but the first, which keeps 16 channels"
    assert len(SMALL.layers(uniform(SMALL, "k3_e1"))) == 22 + 3


def test_every_block_has_its_first_convolution_whatever_the_expansion() -> None:
    for operation in OPERATIONS[1:]:
        layer = position_layer(SMALL.positions[2], operation)
        assert layer is not None
        assert SMALL.cost(layer).num_kernels == 3


def test_groups_halve_both_1x1_convolutions() -> None:
    plain, grouped = (position_layer(SMALL.positions[2], name) for name in ("k3_e1", "k3_e1_g2"))
    assert plain is not None and grouped is not None and plain.key != grouped.key
    depthwise = 9 * 24 * 32**2
    assert SMALL.cost(plain).macs - depthwise == 2 * (SMALL.cost(grouped).macs - depthwise)


def test_shuffling_mixes_the_groups() -> None:
    x = torch.arange(6.0).reshape(1, 6, 1, 1)
    assert shuffle(x, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert shuffle(x, 2).flatten().tolist() == torch.nn.ChannelShuffle(2)(x).flatten().tolist()
    assert shuffle(x, 1) is x


def test_the_large_networks_size_is_that_of_the_paper() -> None:
    """FBNet-B of Wu et al. has 295 M multiply-accumulates and 4.5 M parameters."""
    stages = [
        ["k3_e1"],
        ["k3_e6", "k5_e1", "k3_e1", "k3_e1"],
        ["k5_e6", "k5_e3", "k3_e6", "k5_e6"],
        ["k5_e6", "k5_e1", "skip", "k5_e3"],
        ["k5_e6", "k3_e1", "k5_e1", "k5_e3"],
        ["k5_e6", "k5_e1", "k5_e6", "k5_e6"],
        ["k3_e6"],
    ]
    names = [name for stage in stages for name in stage]
    cost = LARGE.total_cost(LARGE.architecture(dict(zip((c.name for c in LARGE.choices), names, strict=True))))
    assert cost.macs / 1e6 == pytest.approx(295, rel=0.1)
    assert cost.parameters / 1e6 == pytest.approx(4.5, rel=0.1)


@pytest.fixture(scope="module")
def effects(published_file: Callable[[str], Path]) -> dict[str, np.ndarray]:
    """Per device (22, 9) ms that an operation at a position adds to ``skip`` there: least squares."""
    from benchmarks.published import load_published

    published = load_published(published_file("fbnet.npz"), SMALL)
    one_hot = np.eye(len(OPERATIONS))[published.encodings][:, :, 1:]
    design = np.column_stack([np.ones(len(one_hot)), one_hot.reshape(len(one_hot), -1)])
    weights = np.linalg.lstsq(design, np.stack([*published.latency_ms.values()], axis=1), rcond=None)[0][1:]
    with_skip = np.pad(weights.reshape(NUM_POSITIONS, -1, weights.shape[1]), ((0, 0), (1, 0), (0, 0)))
    return {device: with_skip[:, :, i] for i, device in enumerate(published.latency_ms)}


def test_published_order_of_operations(effects: dict[str, np.ndarray]) -> None:
    """``skip`` is the cheapest where it is the identity, larger kernels and expansions cost more."""
    identities = [i for i, p in enumerate(SMALL.positions) if position_layer(p, "skip") is None]
    assert len(identities) == 16
    for device, ms in effects.items():
        assert ms[identities].mean(axis=0).argmin() == OPERATIONS.index("skip"), device
    exact = effects["pixel3"]  # a sum over layers, without noise
    for cheap, dear in [
        ("skip", "k3_e1"),
        ("k3_e1", "k3_e3"),
        ("k3_e3", "k3_e6"),
        ("k3_e1", "k5_e1"),
        ("k3_e3", "k5_e3"),
        ("k3_e6", "k5_e6"),
        ("k3_e1_g2", "k5_e1_g2"),
    ]:
        assert (exact[:, OPERATIONS.index(cheap)] < exact[:, OPERATIONS.index(dear)]).all(), (cheap, dear)


def test_published_latencies_are_of_the_small_network(effects: dict[str, np.ndarray]) -> None:
    """k5_e6 at position 0 (16 channels) against position 2 (24): fewer multiply-accumulates in the small
    network, where both see 32x32, twice as many in the large one, where they see 112x112 and 56x56."""

    def ratio(values: np.ndarray) -> float:
        return float((values[0, -1] - values[0, 0]) / (values[2, -1] - values[2, 0]))

    def macs(space: FBNetSpace) -> np.ndarray:
        layers = [[position_layer(p, name) for name in OPERATIONS] for p in space.positions]
        return np.array([[0 if layer is None else space.cost(layer).macs for layer in row] for row in layers])

    assert ratio(macs(SMALL)) == pytest.approx(0.52, abs=0.01)
    assert ratio(macs(LARGE)) == pytest.approx(2.08, abs=0.01)
    launch_bound = {device for device in effects if "ti" in device and device.endswith("_1")}
    for device, ms in effects.items():
        assert ratio(ms) < (1.2 if device in launch_bound else 0.9), device
