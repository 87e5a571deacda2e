from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hwautoml.core.measurement import Measurement
from hwautoml.devices.local import LocalDevice
from hwautoml.devices.protocol import MeasureFailure
from hwautoml.profilers.disturbance import (
    at_usual_speed,
    disturbance,
    disturbed,
    items,
    least_disturbed,
    usual_reference_ms,
)


def line(key: str, median_ms: float, reference_ms: float | None, deviation_ms: float = 0.0) -> dict[str, Any]:
    return {
        "record": "layer",
        "key": key,
        "median_ms": median_ms,
        "deviation_ms": deviation_ms,
        "conditions": {"reference_median_ms": reference_ms},
    }


QUIET, BUSY = line("a", 1.0, 10.0), line("b", 3.0, 15.0)


def test_the_usual_speed_is_the_median_of_the_calls_that_had_a_reference() -> None:
    assert usual_reference_ms([line("a", 1, 10.0), line("b", 1, 11.0), line("c", 1, 30.0), line("d", 1, None)]) == 11.0
    assert usual_reference_ms([line("a", 1, None)]) is None


def test_a_disturbed_result_is_scaled_and_doubted() -> None:
    assert at_usual_speed(QUIET, 10.0) == (1.0, 0.0)
    median_ms, deviation_ms = at_usual_speed(BUSY, 10.0)
    assert median_ms == pytest.approx(2.0)
    assert deviation_ms == pytest.approx(0.5 * math.log(1.5) * 2.0)
    drifted = line("a", 1.01, 10.1, 0.01)
    assert at_usual_speed(drifted, 10.0) == pytest.approx((1.0, 0.01 / 1.01))
    assert at_usual_speed(BUSY, None) == (3.0, 0.0)
    assert disturbance(BUSY, None) == 0.0


def test_a_quieter_result_replaces_a_disturbed_one_and_order_is_kept() -> None:
    quiet_again = line("b", 1.8, 10.0)
    lines = [BUSY, QUIET, quiet_again, line("b", 4.0, 20.0)]
    assert least_disturbed(lines, 10.0) == [quiet_again, QUIET]
    assert [(found["key"], found["median_ms"]) for found in items(lines)] == [("b", 4.0), ("a", 1.0)]


def test_what_was_only_disturbed_is_listed_worst_first_and_three_times_at_most() -> None:
    usual = [line(f"u{number}", 1.0, 10.0) for number in range(9)]
    worse = line("c", 3.0, 20.0)
    assert disturbed([*usual, BUSY, worse, line("d", 1.0, 10.1)], 0.03, 2.5) == [worse, BUSY]
    assert disturbed([*usual, BUSY, line("b", 1.8, 10.1)], 0.03, 2.5) == []
    assert disturbed([*usual, BUSY, BUSY, BUSY], 0.03, 2.5) == []


def test_what_scatters_far_more_than_others_of_its_kind_is_listed_too() -> None:
    """A burst that spared the reference."""
    usual = [line(f"u{number}", 1.0, 10.0, 0.01) for number in range(9)]
    burst = line("c", 1.4, 10.0, 0.05)
    assert disturbed([*usual, burst, line("d", 1.0, 10.0, 0.02)], 0.03, 2.5) == [burst]
    assert disturbed([*usual, burst, line("c", 1.0, 10.0, 0.01)], 0.03, 2.5) == []
    network = {**line("", 1.0, 10.0, 0.03), "record": "network", "architecture_id": "n"}
    assert disturbed([*usual, network], 0.03, 2.5) == [], "networks are not judged by layers"


class BusyAtFirst:
    """A device whose first call is disturbed: everything five times as slow, the reference only three times."""

    def __init__(self, device: LocalDevice, tiny: ModuleType) -> None:
        self._device, self._protocol, self.calls = device, tiny.PROTOCOL, 0

    def __call__(self, paths: Sequence[Path], reference: Path | None = None) -> list[Measurement | MeasureFailure]:
        self.calls += 1
        results = self._device.measure(paths, reference, self._protocol)
        return results if self.calls > 1 else [self._slowed(result) for result in results]

    @staticmethod
    def _slowed(result: Measurement | MeasureFailure) -> Measurement:
        assert isinstance(result, Measurement)
        reference_ms = 3 * float(result.conditions["reference_median_ms"])  # type: ignore[arg-type]
        conditions = {**result.conditions, "reference_median_ms": reference_ms}
        return replace(result, samples_ms=tuple(5 * sample for sample in result.samples_ms), conditions=conditions)


def test_a_profile_measures_what_was_disturbed_again(tmp_path: Path, device: LocalDevice, tiny: ModuleType) -> None:
    path, busy = tmp_path / "t.json", BusyAtFirst(device, tiny)
    options = replace(tiny.OPTIONS, layer_budget_sec=100.0, network_budget_sec=100.0, max_disturbance=0.6)
    table = tiny.profile(path, device, options, measure=busy)
    lines = [found for found in _lines(path) if "median_ms" in found]
    usual_ms = usual_reference_ms(lines)
    first = [found for found in lines if disturbance(found, usual_ms) > 0.6]
    assert first, "the first call was to be disturbed"
    for found in first:
        again = [other for other in lines if other.get("key") == found.get("key") and other not in first]
        assert again
    assert len(table.entries) == len(tiny.TinySpace().all_layers())
    assert table.conditions["num_too_noisy"] == 0


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.with_suffix(".journal.jsonl").read_text().splitlines()]
