from __future__ import annotations

import pytest

from hwautoml.errors import InvalidValueError
from hwautoml.spaces.efficientnet_lite import (
    EfficientNetLite0,
    EfficientNetLite1,
    EfficientNetLite2,
    EfficientNetLiteSpace,
)
from hwautoml.testing.spaces import ElasticSpaceSuite


class TestEfficientNetLite(ElasticSpaceSuite):
    @pytest.fixture(
        params=[(EfficientNetLite0, 64, 10), (EfficientNetLite0, 96, 2), (EfficientNetLite2, 64, 1)], ids=str
    )
    def space(self, request: pytest.FixtureRequest) -> EfficientNetLite0:
        space_class, image_size, num_outputs = request.param
        return space_class(image_size, 3, num_outputs)


@pytest.mark.parametrize(
    ("space_class", "native", "parameters", "macs"),
    [
        (EfficientNetLite0, 224, 4.65e6, 407e6),
        (EfficientNetLite1, 240, 5.42e6, 631e6),
        (EfficientNetLite2, 260, 6.09e6, 899e6),
    ],
)
def test_the_full_networks_are_as_large_as_was_published(
    space_class: type[EfficientNetLiteSpace], native: int, parameters: float, macs: float
) -> None:
    """Multiply-accumulates were published for the native size, which need not be a multiple of 32, with some more
    operations counted."""
    space = space_class(256, 3, 1000)
    cost = space.total_cost(space.largest())
    assert cost.parameters == pytest.approx(parameters, rel=0.01)
    assert 0.8 * macs < cost.macs * (native / 256) ** 2 < macs


def test_parts_are_taken_away_down_to_a_hundredth() -> None:
    space = EfficientNetLite0(224, 3, 12)
    full, least = (space.total_cost(a).macs for a in (space.largest(), space.smallest()))
    assert least < full / 50


def test_what_is_cut_has_no_choices() -> None:
    space = EfficientNetLite0(96, 3, 10)
    values = {**space.largest().as_dict, "stages": 5}
    cut = space.architecture(values)
    assert cut == space.architecture({**values, "stage5.depth": 1, "stage6.expansion": 3})
    assert [position for position, _ in space.placed_layers(cut)][-2:] == ["stage4_block2", "head"]


@pytest.mark.parametrize("sizes", [(32, 3, 10), (100, 3, 10), (320, 3, 10), (224, 1, 10), (224, 3, 0)])
def test_sizes_that_it_does_not_take_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(InvalidValueError):
        EfficientNetLite0(*sizes)


def test_lite1_is_deeper() -> None:
    assert [stage.num_blocks for stage in EfficientNetLite1.stages] == [1, 3, 3, 4, 4, 5, 1]
