from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwautoml.core.interval import wilson_interval


def test_wilson_interval_of_published_values() -> None:
    """Newcombe 1998, table I, method 3: 81 of 263, and 0 of 20."""
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0.0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


@given(st.floats(0, 1), st.integers(1, 100_000))
def test_the_interval_of_a_share_holds_it(share: float, number: int) -> None:
    low, high = wilson_interval(share, number)
    assert 0 <= low <= share + 1e-12 and share - 1e-12 <= high <= 1
