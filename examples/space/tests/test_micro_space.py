from __future__ import annotations

import pytest
from micro_space import MicroSpace

from hwautoml.errors import InvalidValueError
from hwautoml.testing.spaces import ElasticSpaceSuite


class TestMicroSpace(ElasticSpaceSuite):
    @pytest.fixture(params=[(8, 1, 10), (32, 3, 2), (96, 3, 1)], ids=str)
    def space(self, request: pytest.FixtureRequest) -> MicroSpace:
        return MicroSpace(*request.param)


def test_two_feature_maps_are_all_that_is_alive() -> None:
    """In the largest network for 96x96 images: under 256 KB in int8, a quarter of what is counted in fp32."""
    space = MicroSpace(96, 3, 10)
    assert space.total_cost(space.largest()).peak_activation_bytes / 4 < 256 * 1024


def test_sizes_that_a_microcontroller_has_no_memory_for_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="image size 224 must be between 8 and 96"):
        MicroSpace(224, 3, 10)
