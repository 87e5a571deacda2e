import numpy as np
import pytest

from hwautoml.searchers.evolution import cross, mutate
from hwautoml.spaces.mobile import MobileSpace

SPACE = MobileSpace(32, 3, 10)


def parents(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, SPACE.num_options, (count, len(SPACE.choices)))


def test_children_of_a_cross_take_every_choice_from_a_parent() -> None:
    first, second = parents(200, 1), parents(200, 2)
    children = cross(first, second, np.random.default_rng(0))
    assert np.all((children == first) | (children == second))
    differing = first != second
    assert 0.45 < (children == first)[differing].mean() < 0.55


@pytest.mark.parametrize("rate", [0.0, 0.1, 1.0])
def test_mutation_redraws_at_its_rate_and_stays_in_the_space(rate: float) -> None:
    before = parents(500)
    after = mutate(SPACE, before, rate, np.random.default_rng(7))
    assert np.all((after >= 0) & (after < SPACE.num_options))
    expected = rate * (1 - 1 / SPACE.num_options).mean()  # a redrawn option may be the old one
    assert (after != before).mean() == pytest.approx(expected, abs=0.01)
