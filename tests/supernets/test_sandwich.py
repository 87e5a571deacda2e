import numpy as np

from hwautoml.core.space import Architecture
from hwautoml.spaces.mobile import MobileSpace
from hwautoml.spaces.mobile_layers import KINDS
from hwautoml.supernets.sandwich import Sandwich

SPACE = MobileSpace(32, 3, 10)
LIMIT_MACS = 8_000_000  # every kind has members below it


def is_small(architecture: Architecture) -> bool:
    return SPACE.total_cost(architecture).macs <= LIMIT_MACS


def test_without_a_limit_the_ends_are_the_spaces_own_but_for_their_kinds() -> None:
    sandwich, rng = Sandwich(SPACE), np.random.default_rng(0)
    for drawn, end in ((sandwich.largest, SPACE.largest()), (sandwich.smallest, SPACE.smallest())):
        found = [drawn(rng) for _ in range(20)]
        assert {a["stage1.kind"] for a in found} == set(KINDS)
        for name in ("resolution", "stage0.depth", "stage1.width", "stage3.depth"):
            assert {a[name] for a in found} == {end[name]}


def test_nothing_is_drawn_beyond_reach() -> None:
    assert not is_small(SPACE.largest())
    sandwich, rng = Sandwich(SPACE, is_small), np.random.default_rng(0)
    largest = [sandwich.largest(rng) for _ in range(50)]
    others = [sandwich.random(rng) for _ in range(50)]
    assert all(is_small(a) for a in largest + others)
    assert len(set(largest)) > 40, "shrunk differently in each step"
    mean_macs = [np.mean([SPACE.total_cost(a).macs for a in group]) for group in (largest, others)]
    assert mean_macs[0] > 0.5 * LIMIT_MACS, "shrunk no further than needed"


def test_a_limit_below_everything_still_gives_members() -> None:
    sandwich, rng = Sandwich(SPACE, lambda _: False), np.random.default_rng(0)
    for drawn in (sandwich.largest, sandwich.random):
        assert drawn(rng)["resolution"] == SPACE.resolutions[0]


def test_the_same_seed_draws_the_same_members() -> None:
    first, second = (
        [draw(rng) for draw in (s.largest, s.random, s.smallest) for _ in range(5)]
        for s, rng in ((Sandwich(SPACE, is_small), np.random.default_rng(4)) for _ in range(2))
    )
    assert first == second
