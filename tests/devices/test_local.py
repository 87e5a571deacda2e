from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hwautoml.core.measurement import Measurement
from hwautoml.devices.local import LocalDevice
from hwautoml.devices.machine import allowed_cores, fingerprint
from hwautoml.devices.protocol import MeasureFailure, MeasureProtocol
from hwautoml.errors import CompileError, InvalidValueError, MeasurementError

Build = Callable[[str, int], Path]
QUICK = MeasureProtocol(warmup_ms=2, min_rounds=6, max_rounds=8, min_sample_ms=0.3)
# Starts a worker whose backend does ``{prelude}`` each time a model is opened.
PATCHED_WORKER = """
import hwautoml.compilers.onnxruntime as backend
from hwautoml.devices import worker
original = backend.open_model
def open_model(path, **options):
    {prelude}
    return original(path, **options)
backend.open_model = open_model
worker.main()
"""


def worker_that(prelude: str) -> list[str]:
    return [sys.executable, "-c", PATCHED_WORKER.replace("{prelude}", prelude)]


def is_running(pid: int) -> bool:
    """A zombie has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def ends(pid: int, within_sec: float = 10.0) -> bool:
    deadline = time.monotonic() + within_sec
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(pid)


def test_models_are_measured_and_conditions_recorded(device: LocalDevice, conv: Build) -> None:
    progress: list[tuple[int, int, str]] = []
    small, large, reference = conv("small", 4), conv("large", 64), conv("reference", 16)
    results = device.measure(
        [large, small], reference, QUICK, lambda done, total, text: progress.append((done, total, text))
    )
    assert all(isinstance(result, Measurement) for result in results)
    first, second = results
    assert isinstance(first, Measurement) and isinstance(second, Measurement)
    assert first.median_ms > second.median_ms
    assert first.drift_corrected
    assert QUICK.min_rounds <= len(first.samples_ms) <= QUICK.max_rounds
    for name in (
        "cpu",
        "num_cores",
        "os",
        "date",
        "load_average",
        "runtime_version",
        "noise_floor_relative",
        "reference_median_ms",
        "load_ms",
        "peak_memory_bytes",
        "fingerprint",
    ):
        assert name in first.conditions, name
    assert first.conditions["affinity"] == [allowed_cores()[-1]]
    json.dumps(first.conditions, allow_nan=False)
    assert progress[-1][:2] == (2, 2)


def test_fast_models_run_several_times_per_sample(device: LocalDevice, conv: Build) -> None:
    tiny, large = device.measure([conv("tiny", 1), conv("large", 64)], None, QUICK)
    assert isinstance(tiny, Measurement) and isinstance(large, Measurement)
    assert not tiny.drift_corrected
    assert tiny.conditions["num_inner"] > large.conditions["num_inner"]  # type: ignore[operator]


DISTURBED_WORKER = """
import time
import hwautoml.compilers._onnxruntime as backend
from hwautoml.devices import worker
original = backend.OnnxRuntimeModel.bind
def bind(self, x):
    run, count = original(self, x), [0]
    def disturbed():
        count[0] += 1
        if count[0] % 50 < 20:
            time.sleep(0.001)
        run()
    return disturbed
backend.OnnxRuntimeModel.bind = bind
worker.main()
"""


def test_a_sample_escapes_what_disturbs_some_of_its_parts(conv: Build) -> None:
    protocol = MeasureProtocol(warmup_ms=2, min_rounds=20, max_rounds=20, min_sample_ms=0.1, num_singles=500)
    with LocalDevice("onnxruntime", command=[sys.executable, "-c", DISTURBED_WORKER]) as device:
        (result,) = device.measure([conv("a", 4)], None, protocol)
    assert isinstance(result, Measurement)
    # Two of five single runs are far slower.
    assert result.median_ms < np.mean(result.single_ms) / 2
    assert result.conditions["typical_over_fastest"] >= 1  # type: ignore[operator]


def test_results_are_at_the_usual_speed_and_the_references_too(device: LocalDevice, conv: Build) -> None:
    """The reference measured against itself is the reference."""
    reference = conv("r", 16)
    (result,) = device.measure([reference], reference, MeasureProtocol(min_rounds=20, max_rounds=20))
    assert isinstance(result, Measurement)
    assert result.median_ms == pytest.approx(result.conditions["reference_median_ms"], rel=0.2)


def test_a_corrupt_file_fails_alone(device: LocalDevice, conv: Build, tmp_path: Path) -> None:
    corrupt = tmp_path / "corrupt.onnx"
    corrupt.write_bytes(b"no protobuf at all")
    good, bad, missing = device.measure([conv("a", 4), corrupt, tmp_path / "missing.onnx"], conv("r", 4), QUICK)
    assert isinstance(good, Measurement)
    assert isinstance(bad, MeasureFailure) and bad.path == corrupt and "corrupt.onnx" in bad.reason
    assert isinstance(missing, MeasureFailure)


def test_a_hang_is_killed_and_the_others_go_on(device: LocalDevice, conv: Build, endless: Path) -> None:
    protocol = MeasureProtocol(warmup_ms=2, min_rounds=3, max_rounds=3, min_sample_ms=0.3, timeout_sec=3)
    before, hung, after = device.measure([conv("a", 4), endless, conv("b", 8)], conv("r", 4), protocol)
    assert isinstance(before, Measurement) and isinstance(after, Measurement)
    assert isinstance(hung, MeasureFailure) and "no answer within 3 s" in hung.reason


def test_a_crash_is_that_models_failure(conv: Build) -> None:
    prelude = "if 'bad' in path.name: import os; print('about to fall', flush=True); os.abort()"
    with LocalDevice("onnxruntime", command=worker_that(prelude)) as device:
        before, crashed, after = device.measure([conv("a", 4), conv("bad", 4), conv("b", 4)], conv("r", 4), QUICK)
    assert isinstance(before, Measurement) and isinstance(after, Measurement)
    assert isinstance(crashed, MeasureFailure)
    assert "SIGABRT" in crashed.reason and "about to fall" in crashed.reason


def test_stray_prints_do_not_reach_the_protocol(conv: Build) -> None:
    prelude = "import os; print('hello'); os.write(1, b'{\"ok\": 1}\\n'); os.system('echo from a child')"
    with LocalDevice("onnxruntime", command=worker_that(prelude)) as device:
        (result,) = device.measure([conv("a", 4)], None, QUICK)
    assert isinstance(result, Measurement)


def test_garbage_is_a_failure_not_a_result(conv: Build) -> None:
    # What the worker hides from stray prints, a backend can still find on purpose.
    prelude = "import os; [os.write(fd, b'garbage\\n') for fd in range(3, 20) if os.path.exists(f'/proc/self/fd/{fd}')"
    prelude += " and os.readlink(f'/proc/self/fd/{fd}').startswith('pipe') and 'bad' in path.name]"
    with LocalDevice("onnxruntime", command=worker_that(prelude)) as device:
        good, bad = device.measure([conv("a", 4), conv("bad", 4)], None, QUICK)
    assert isinstance(good, Measurement)
    assert isinstance(bad, MeasureFailure) and "garbage" in bad.reason


def test_a_reference_that_fails_is_an_error(device: LocalDevice, conv: Build, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="the reference .*gone"):
        device.measure([conv("a", 4)], tmp_path / "gone.onnx", QUICK)
    (result,) = device.measure([conv("a", 4)], conv("r", 4), QUICK)
    assert isinstance(result, Measurement)


@pytest.mark.parametrize("has_ended", [True, False])
def test_a_worker_lost_between_calls_is_replaced(device: LocalDevice, conv: Build, has_ended: bool) -> None:
    """Also one that is dying while the next call begins."""
    paths, reference = [conv("a", 4)], conv("r", 4)
    device.measure(paths, reference, QUICK)
    assert device.worker_pid is not None
    os.kill(device.worker_pid, signal.SIGKILL)
    assert not has_ended or ends(device.worker_pid)
    (result,) = device.measure(paths, reference, QUICK)
    assert isinstance(result, Measurement)


def test_run_model_pads_the_last_batch(device: LocalDevice, conv: Build) -> None:
    import onnxruntime

    path = conv("a", 4)
    inputs = np.random.default_rng(1).standard_normal((5, 4, 16, 16)).astype(np.float32)
    outputs = device.run_model(path, inputs)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": inputs[3:5]})[0]
    assert outputs.shape == (5, 4, 16, 16)
    np.testing.assert_allclose(outputs[3:], expected, rtol=1e-4, atol=1e-4)


def test_run_model_keeps_the_error_family(device: LocalDevice, tmp_path: Path) -> None:
    corrupt = tmp_path / "corrupt.onnx"
    corrupt.write_bytes(b"no protobuf at all")
    with pytest.raises(CompileError) as caught:
        device.run_model(corrupt, np.zeros((1, 4), np.float32))
    assert caught.value.fix, "what helps is told across processes, too"
    with pytest.raises(InvalidValueError, match="at least one input"):
        device.run_model(corrupt, np.zeros((0, 4), np.float32))


def test_too_many_threads_and_unknown_runtimes_are_refused(conv: Build) -> None:
    with pytest.raises(InvalidValueError, match="num_threads must be between 1"):
        LocalDevice("onnxruntime", num_threads=10_000)
    with LocalDevice("nosuchruntime") as device, pytest.raises(MeasurementError, match="nosuchruntime"):
        device.measure([conv("a", 4)])


PARENT = """
import signal, sys, time
from pathlib import Path
# A shell's background job inherits that SIGINT is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
import numpy as np
from hwautoml.devices.local import LocalDevice
device = LocalDevice("onnxruntime")
device.runtime_version
print(device.worker_pid, flush=True)
device.run_model(Path(sys.argv[1]), np.zeros((1, 4), np.float32))
"""


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_its_parent(endless: Path, signal_number: signal.Signals) -> None:
    """Not even while it hangs in native code, and not without a ``with`` block."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(endless)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    time.sleep(0.5)  # let the request reach the worker
    assert is_running(worker)
    parent.send_signal(signal_number)
    parent.wait(timeout=20)
    parent.stdout.close()
    assert ends(worker)


def test_fingerprint_is_a_stable_file_name() -> None:
    text = fingerprint("onnxruntime", "1.20.0")
    assert text == fingerprint("onnxruntime", "1.20.0") != fingerprint("tvm", "1.20.0")
    assert "onnxruntime-1.20.0" in text and "/" not in text and " " not in text
