"""Layers of many architectures at once: a space's own look-up gives what its ``layers`` gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwautoml.core.space import SearchSpace
from hwautoml.errors import InvalidValueError
from hwautoml.spaces.fbnet import FBNetSpace
from hwautoml.spaces.mobile import MobileSpace
from hwautoml.spaces.nasbench201 import NasBench201Space
from hwautoml.spaces.ofa import OFASpace

SPACES = [
    MobileSpace(8, 1, 2),
    MobileSpace(32, 3, 10),
    MobileSpace(224, 3, 10),
    NasBench201Space(),
    NasBench201Space(16, 3, 120),
    FBNetSpace(),
    FBNetSpace(224, 3, 1000),
    OFASpace(),
]


def draw(space: SearchSpace, num: int, seed: int = 0) -> np.ndarray:
    """Any option indices, canonical or not."""
    return np.random.default_rng(seed).integers(0, space.num_options, size=(num, len(space.choices)))


@given(st.sampled_from(SPACES), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_the_override_gives_what_the_default_gives(space: SearchSpace, seed: int) -> None:
    encodings = draw(space, 10, seed)
    free = len(space.all_layers())
    found, expected = space.layer_indices(encodings), SearchSpace.layer_indices(space, encodings)
    for a, b in zip(found, expected, strict=True):
        assert sorted(a[a < free]) == sorted(b[b < free])
    assert found.min() >= 0 and found.max() <= free


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_counts_are_those_of_the_layers(space: SearchSpace) -> None:
    encodings, everything = draw(space, 20), space.all_layers()
    counts = space.layer_counts(encodings)
    assert counts.shape == (20, len(everything))
    for row, encoding in zip(counts, encodings, strict=True):
        layers = space.layers(space.decode(encoding))
        assert [layers.count(layer) for layer in everything] == list(row)


def test_a_sum_over_slots_is_the_sum_over_layers() -> None:
    space = SPACES[1]
    encodings = draw(space, 50)
    macs = np.array([space.cost(layer).macs for layer in space.all_layers()])
    sums = np.append(macs, 0)[space.layer_indices(encodings)].sum(axis=1)
    assert list(sums) == [space.total_cost(space.decode(encoding)).macs for encoding in encodings]


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_none_at_all(space: SearchSpace) -> None:
    empty = draw(space, 0)
    assert len(space.layer_indices(empty)) == len(SearchSpace.layer_indices(space, empty)) == 0
    assert space.layer_counts(empty).shape == (0, len(space.all_layers()))


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_wrong_encodings_are_refused(space: SearchSpace) -> None:
    encodings = draw(space, 3)
    with pytest.raises(InvalidValueError, match=rf"must be integers \(n, {len(space.choices)}\), got int64"):
        space.layer_indices(encodings[:, :-1])
    with pytest.raises(InvalidValueError, match="must be integers .* got float64"):
        space.layer_counts(encodings.astype(float))
    encodings[1, 2] = space.num_options[2]
    with pytest.raises(InvalidValueError, match=f"option {space.num_options[2]} of {space.choices[2].name} must be"):
        space.layer_indices(encodings)
    encodings[1, 2] = -1
    with pytest.raises(InvalidValueError, match="option -1 of"):
        space.layer_indices(encodings)


def test_small_integers_do_not_overflow() -> None:
    space = SPACES[2]
    encodings = draw(space, 100)
    assert (space.layer_indices(encodings.astype(np.int8)) == space.layer_indices(encodings)).all()
