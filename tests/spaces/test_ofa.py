from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hwautoml.errors import InvalidValueError
from hwautoml.spaces.ofa import DEPTHS, RESOLUTIONS, STAGES, OFASpace
from hwautoml.spaces.ofa_layers import make_divisible

SPACE, NARROW = OFASpace(), OFASpace(width_multiplier=1.0)


def test_there_are_10_to_the_19_networks_at_25_resolutions() -> None:
    """The paper counts ((3 x 3)^2 + (3 x 3)^3 + (3 x 3)^4)^5 without the resolution."""
    distinct = sum(9**depth for depth in DEPTHS) ** len(STAGES)
    assert distinct == pytest.approx(2e19, rel=0.15)
    assert len(RESOLUTIONS) == 25


def test_blocks_beyond_the_depth_make_no_difference() -> None:
    shallow = {**SPACE.largest().as_dict, "stage2.depth": 3}
    others = [
        SPACE.architecture({**shallow, "stage2.block3.kernel": k, "stage2.block3.expansion": e})
        for k in (3, 5, 7)
        for e in (3, 4, 6)
    ]
    assert len(set(others)) == 1
    assert SPACE.canonical(others[0].as_dict) == others[0].as_dict


def test_stages_have_what_mobilenetv3_gives_them() -> None:
    placed = dict(SPACE.placed_layers(SPACE.largest()))
    assert [placed[f"stage{i}_block0"].kind for i in range(5)] == ["mbconv", "mbconv_se", "mbconv"] + ["mbconv_se"] * 2
    assert [placed[f"stage{i}_block3"].activation for i in range(5)] == ["relu"] * 2 + ["hswish"] * 3
    assert [placed[f"stage{i}_block0"].stride for i in range(5)] == [2, 2, 2, 1, 2]
    assert [placed[f"stage{i}_block1"].height for i in range(5)] == [56, 28, 14, 14, 7]
    assert len(placed) == 2 + 20 + 3


@pytest.mark.parametrize(
    ("space", "widths"),
    [(NARROW, [16, 24, 40, 80, 112, 160, 960, 1280]), (SPACE, [24, 32, 48, 96, 136, 192, 1152, 1536])],
    ids=["1.0", "1.2"],
)
def test_widths(space: OFASpace, widths: list[int]) -> None:
    placed = dict(space.placed_layers(space.largest()))
    positions = ["first", *(f"stage{i}_block0" for i in range(5)), "final", "mix"]
    assert [placed[position].out_channels for position in positions] == widths


@pytest.mark.parametrize(("space", "parameters"), [(NARROW, 7_664_760), (SPACE, 10_701_632)], ids=["1.0", "1.2"])
def test_the_largest_network_has_the_published_size(space: OFASpace, parameters: int) -> None:
    """Counted in the network that the authors' code builds."""
    assert sum(p.numel() for p in space.module(space.largest()).parameters()) == parameters


def test_rounding_of_widths() -> None:
    assert [make_divisible(x) for x in (1, 16.0, 19.2, 19.9, 20.0, 134.4)] == [8, 16, 24, 24, 24, 136]


def test_only_published_widths() -> None:
    with pytest.raises(InvalidValueError, match=r"width multiplier 0.5 must be one of \(1.0, 1.2\)"):
        OFASpace(width_multiplier=0.5)


def test_published_encodings_explain_their_latencies(published_file: Callable[[str], Path]) -> None:
    """With 64 images a GPU's time follows the multiply-accumulates, if the columns mean what we think."""
    from benchmarks.published import load_published

    published = load_published(published_file("ofa.npz"), SPACE)
    macs = np.append([SPACE.cost(layer).macs for layer in SPACE.all_layers()], 0)
    for row in published.encodings[::250]:
        assert (SPACE.encode(SPACE.decode(row)) == row).all(), "canonical"

    def correlation(encodings: np.ndarray) -> float:
        total = macs[SPACE.layer_indices(encodings)].sum(axis=1)
        return float(np.corrcoef(total, published.latency_ms["titan_xp_64"])[0, 1])

    reversed_stages = published.encodings.copy()
    reversed_stages[:, 1:] = published.encodings[:, 1:].reshape(-1, 5, 9)[:, ::-1].reshape(-1, 45)
    assert correlation(published.encodings) > 0.975 > correlation(reversed_stages)
