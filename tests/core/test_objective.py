import pytest

from hwautoml.core.objective import Objective
from hwautoml.errors import InvalidValueError


@pytest.mark.parametrize(
    ("direction", "limit", "value", "met"),
    [
        ("minimize", 1.0, 1.0, True),
        ("minimize", 1.0, 1.01, False),
        ("maximize", 0.9, 0.9, True),
        ("maximize", 0.9, 0.89, False),
        ("minimize", None, 1e9, True),
        ("minimize", 1.0, float("nan"), False),
    ],
)
def test_limits_are_inclusive(direction, limit, value, met) -> None:
    assert Objective("latency", "ms", direction, limit).is_met(value) is met


def test_a_direction_is_one_of_two() -> None:
    with pytest.raises(InvalidValueError, match="must be minimize or maximize"):
        Objective("latency", "ms", "down")  # type: ignore[arg-type]
