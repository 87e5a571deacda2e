from __future__ import annotations

import doctest

import numpy as np
import pytest

from hwautoml.core import elastic_space
from hwautoml.spaces.mobile import MobileSpace


def test_the_example_of_the_docstring_runs() -> None:
    found = doctest.testmod(elastic_space)
    assert found.attempted > 10 and found.failed == 0


def test_kinds_are_the_values_that_are_not_ordered() -> None:
    space = MobileSpace(32, 3, 10)
    member = space.sample(np.random.default_rng(0))
    assert space.kinds(member) == tuple(member[f"stage{index}.kind"] for index in range(4))


def test_a_space_without_layers_cannot_be_made() -> None:
    class Nothing(elastic_space.ElasticSpace):
        identity = "nothing/v1"

    with pytest.raises(TypeError, match="placed_layers"):
        Nothing()  # type: ignore[abstract]
