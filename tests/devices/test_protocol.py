from __future__ import annotations

import numpy as np
import pytest

from hwautoml.devices.protocol import Drift, MeasureProtocol
from hwautoml.errors import InvalidValueError


def test_drift_of_a_slowing_machine_divides_out() -> None:
    times = np.linspace(0, 10, 100)
    speed = 1 + 0.5 * times / 10
    reference = 2.0 * speed * np.random.default_rng(0).lognormal(0, 0.01, 100)
    drift = Drift(times, reference)
    at = np.array([1.0, 5.0, 9.0])
    corrected = 3.0 * (1 + 0.5 * at / 10) / drift.slowdown(at)
    assert corrected.max() / corrected.min() < 1.03
    assert 0.004 < drift.noise_floor_relative < 0.02


def test_a_single_disturbed_reference_sample_changes_nothing() -> None:
    samples = np.full(20, 2.0)
    samples[7] = 50.0
    np.testing.assert_allclose(Drift(np.arange(20.0), samples).slowdown(np.arange(20.0)), 1.0)


@pytest.mark.parametrize("num", [1, 2, 3])
def test_few_reference_samples_are_enough(num: int) -> None:
    drift = Drift(np.arange(float(num)), np.full(num, 1.5))
    np.testing.assert_allclose(drift.slowdown(np.array([-1.0, 0.5, 99.0])), 1.0)
    assert drift.noise_floor_relative == 0


@pytest.mark.parametrize(
    ("run_ms", "parts", "runs"), [(0.001, 10, 100), (0.09, 10, 1), (0.8, 10, 1), (2.0, 5, 1), (30.0, 3, 1)]
)
def test_slow_models_have_fewer_parts_and_fast_ones_more_runs(run_ms: float, parts: int, runs: int) -> None:
    assert MeasureProtocol().parts_and_runs(run_ms) == (parts, runs)


def test_a_sample_is_as_long_as_it_has_to_be() -> None:
    assert MeasureProtocol(min_sample_ms=40.0).parts_and_runs(1.0) == (10, 4)


def test_one_part_is_a_plain_sample() -> None:
    assert MeasureProtocol(num_parts=1).parts_and_runs(0.1) == (1, 10)


def test_problems_are_reported_together() -> None:
    with pytest.raises(InvalidValueError, match=r"min_rounds <= max_rounds.*num_parts.*timeout_sec must be positive"):
        MeasureProtocol(min_rounds=9, max_rounds=3, num_parts=0, timeout_sec=0)
