from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hwautoml.core.measurement import Measurement
from hwautoml.devices.local import LocalDevice
from hwautoml.devices.protocol import MeasureFailure, MeasureProtocol
from hwautoml.devices.side_by_side import measure_side_by_side
from hwautoml.errors import MeasurementError

Build = Callable[[str, int], Path]
QUICK = MeasureProtocol(warmup_ms=2, min_rounds=6, max_rounds=8, min_sample_ms=0.3, num_singles=20)


def test_each_has_a_process_of_its_own(conv: Build) -> None:
    with LocalDevice("onnxruntime") as first, LocalDevice("onnxruntime") as second, LocalDevice("onnxruntime") as timer:
        results = measure_side_by_side(
            [(first, conv("small", 4)), (second, conv("large", 64))], (timer, conv("reference", 16)), QUICK
        )
        assert len({first.worker_pid, second.worker_pid, timer.worker_pid}) == 3
    small, large = results
    assert isinstance(small, Measurement) and isinstance(large, Measurement)
    assert small.median_ms < large.median_ms and small.drift_corrected
    assert small.conditions["reference_median_ms"] == large.conditions["reference_median_ms"]
    assert small.conditions["runtime"] == "onnxruntime" and len(small.single_ms) == 20
    assert large.conditions["process_peak_bytes"] > large.conditions["peak_memory_bytes"] > 0  # type: ignore[operator]


def test_a_file_that_fails_fails_alone(conv: Build, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no protobuf")
    with LocalDevice("onnxruntime") as first, LocalDevice("onnxruntime") as second:
        bad, good = measure_side_by_side([(first, tmp_path / "bad.onnx"), (second, conv("good", 4))], None, QUICK)
    assert isinstance(bad, MeasureFailure) and "bad.onnx" in bad.reason
    assert isinstance(good, Measurement) and not good.drift_corrected


def test_a_process_that_does_not_start_fails_alone(conv: Build) -> None:
    with LocalDevice("onnxruntime", command=["/bin/false"]) as broken, LocalDevice("onnxruntime") as works:
        failed, measured = measure_side_by_side([(broken, conv("a", 4)), (works, conv("b", 4))], None, QUICK)
    assert isinstance(failed, MeasureFailure) and isinstance(measured, Measurement)


def test_without_its_reference_nothing_is_measured(conv: Build) -> None:
    with (
        LocalDevice("onnxruntime") as device,
        LocalDevice("onnxruntime", command=["/bin/false"]) as broken,
        pytest.raises(MeasurementError, match="the reference .* cannot be measured"),
    ):
        measure_side_by_side([(device, conv("a", 4))], (broken, conv("r", 4)), QUICK)


def test_slow_models_are_not_timed_a_thousand_times(conv: Build) -> None:
    protocol = MeasureProtocol(warmup_ms=2, min_rounds=3, max_rounds=3, max_model_sec=0.02, num_singles=100_000)
    with LocalDevice("onnxruntime") as device:
        (result,) = device.measure([conv("large", 64)], None, protocol)
    assert isinstance(result, Measurement)
    assert len(result.single_ms) < 0.04 * 1000 / min(result.samples_ms)
