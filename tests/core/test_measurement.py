import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwautoml.core.measurement import Measurement
from hwautoml.errors import InvalidValueError

samples = st.lists(st.floats(min_value=1e-3, max_value=1e3), min_size=1, max_size=60).map(tuple)


@given(samples)
def test_interval_holds_the_median_and_lies_within_the_range(values: tuple[float, ...]) -> None:
    measurement = Measurement(values)
    low, high = measurement.interval_ms
    assert min(values) <= low <= measurement.median_ms <= high <= max(values)
    assert measurement.deviation_ms >= 0


@given(samples, st.randoms(use_true_random=False))
def test_the_order_of_rounds_does_not_matter(values: tuple[float, ...], random) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)
    assert Measurement(tuple(shuffled)).interval_ms == Measurement(values).interval_ms


@pytest.mark.parametrize("num_samples", [6, 7, 10, 25, 100])
def test_interval_covers_the_true_median_about_as_often_as_it_says(num_samples: int) -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        low, high = Measurement(tuple(rng.lognormal(0.0, 0.5, num_samples))).interval_ms
        hits += low <= 1.0 <= high
    assert hits / 1000 >= 0.93, "nominally 95 %"


def test_more_rounds_give_a_tighter_interval() -> None:
    rng = np.random.default_rng(1)
    few, many = (Measurement(tuple(rng.lognormal(0.0, 0.1, n))).deviation_ms for n in (10, 1000))
    assert many < few / 5


def test_few_samples_give_their_range_and_no_p95() -> None:
    measurement = Measurement((3.0, 1.0, 2.0))
    assert measurement.interval_ms == (1.0, 3.0)
    assert measurement.median_ms == 2.0
    assert measurement.p95_ms is None
    assert Measurement((1.0,) * 200).p95_ms is None, "means of several runs have no tail"
    assert Measurement((1.0,), single_ms=(2.0,) * 100).p95_ms == 2.0


@pytest.mark.parametrize("values", [(), (0.0,), (-1.0, 2.0), (float("nan"),), (float("inf"),)])
def test_impossible_samples_are_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(InvalidValueError, match="positive, finite samples"):
        Measurement(values)


def test_json_leads_back_to_the_measurement_and_leaves_other_facts_alone() -> None:
    measured = Measurement((1.0, 2.0, 3.0), {"cpu": "x"}, True, (1.5,))
    assert Measurement.from_json({**measured.to_json(), "weights": "random"}) == measured


def test_json_without_samples_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="samples"):
        Measurement.from_json({})
