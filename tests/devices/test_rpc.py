"""Devices over TVM's RPC, against real servers on loopback."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hwautoml.compilers import load_backend
from hwautoml.core.measurement import Measurement
from hwautoml.devices.protocol import MeasureFailure, MeasureProtocol
from hwautoml.devices.rpc import RpcDevice
from hwautoml.errors import CompileError, InvalidValueError, MeasurementError, TargetUnavailableError
from tests.devices.rpc_boards import (
    AGENT_WITHOUT_ONNX,
    KEY,
    PLAIN_SERVER,
    QUICK,
    Service,
    agent,
    measured,
    odd_library,
    running,
    slow_network,
    unavailable,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def board() -> Iterator[Service]:
    with running(agent()) as service:
        yield service


@pytest.fixture
def device(board: Service) -> Iterator[RpcDevice]:
    with RpcDevice(board.address, key=KEY) as opened:
        yield opened


def test_networks_are_timed_on_the_board(device: RpcDevice, libraries: dict[str, Path]) -> None:
    progress: list[tuple[int, int, str]] = []
    # Samples of many runs of the small one, on a slow machine too.
    protocol = MeasureProtocol(warmup_ms=2, min_rounds=6, max_rounds=8, min_sample_ms=20, num_singles=100)
    large, small = measured(
        device.measure(
            [libraries["large"], libraries["small"]],
            libraries["large"],
            protocol,
            lambda done, total, text: progress.append((done, total, text)),
        )
    )
    assert large.median_ms > 3 * small.median_ms
    assert large.drift_corrected and protocol.min_rounds <= len(large.samples_ms) <= protocol.max_rounds
    assert small.conditions["num_inner"] > large.conditions["num_inner"]  # type: ignore[operator]
    assert len(large.single_ms) == 100 and large.p95_ms is not None
    assert progress[-1][:2] == (2, 2)
    conditions = large.conditions
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
        "preempted_share",
        "affinity",
    ):
        assert conditions[name] is not None, name
    assert conditions["connection"] == "rpc" and conditions["address"] == str(device.route.address)
    assert str(conditions["fingerprint"]).endswith("-rpc")
    assert f"-tvm-{device.runtime_version}-" in str(conditions["fingerprint"])
    assert KEY not in json.dumps(conditions, allow_nan=False)  # here, it is a secret


def test_no_network_is_in_the_times(board: Service, libraries: dict[str, Path]) -> None:
    few = MeasureProtocol(warmup_ms=2, min_rounds=3, max_rounds=3, min_sample_ms=0.3, num_singles=20)
    with slow_network(board.port, delay_sec=0.03) as port, RpcDevice(f"127.0.0.1:{port}", key=KEY) as device:
        for _ in range(2):  # the second time without connecting anew
            (small,) = measured(device.measure([libraries["small"]], None, few))
    assert not small.drift_corrected
    num_inner = int(small.conditions["num_inner"])  # type: ignore[call-overload]
    assert np.median(small.samples_ms) * num_inner < 30 and np.median(small.single_ms) < 30


def test_outputs_are_those_of_onnx_runtime(device: RpcDevice, libraries: dict[str, Path]) -> None:
    import onnxruntime

    inputs = np.random.default_rng(1).standard_normal((5, 8, 16, 16)).astype(np.float32)
    outputs = device.run_model(libraries["small"], inputs)
    session = onnxruntime.InferenceSession(str(libraries["small.onnx"]), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    expected = np.concatenate([session.run(None, {name: inputs[i : i + 2]})[0] for i in (0, 2, 3)])
    assert outputs.shape == (5, 8, 16, 16)
    np.testing.assert_allclose(outputs, expected[[0, 1, 2, 3, 5]], rtol=1e-4, atol=1e-5)


def test_onnx_files_run_in_the_boards_onnx_runtime(device: RpcDevice, libraries: dict[str, Path]) -> None:
    """In one session with libraries; each result says what ran it."""
    paths = [libraries["large.onnx"], libraries["small.onnx"], libraries["small"]]
    large, small, library = device.measure(paths, libraries["small.onnx"], QUICK)
    assert isinstance(large, Measurement) and isinstance(small, Measurement) and isinstance(library, Measurement)
    assert large.median_ms > 3 * small.median_ms > 0, "64 channels are 64 times the work of 8"
    for result, name in ((large, "onnxruntime"), (small, "onnxruntime"), (library, "tvm")):
        assert (result.conditions["runtime"], result.conditions["connection"]) == (name, "rpc")
        assert result.conditions["runtime_version"] == load_backend(name).version()
        assert f"-{name}-" in str(result.conditions["fingerprint"])
        assert result.conditions["load_ms"] > 0  # type: ignore[operator]
    x = np.random.default_rng(0).standard_normal((6, 8, 16, 16), dtype=np.float32)
    outputs = device.run_model(libraries["small.onnx"], x)
    expected = np.concatenate([load_backend("onnxruntime").open_model(paths[1])(x[i : i + 2]) for i in (0, 2, 4)])
    np.testing.assert_array_equal(outputs, expected)


def test_what_the_boards_onnx_runtime_cannot_do_is_said(board: Service, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"not a model")
    with RpcDevice(board.address, key=KEY, runtime="onnxruntime") as device:
        assert device.conditions()["runtime_version"] == load_backend("onnxruntime").version()
        (failure,) = device.measure([damaged], None, QUICK)
        assert isinstance(failure, MeasureFailure) and "damaged.onnx" in failure.reason
    refused = (
        (AGENT_WITHOUT_ONNX, pytest.raises(MeasurementError, match="pip install onnxruntime")),
        (PLAIN_SERVER, pytest.raises(InvalidValueError, match="another server than our agent")),
    )
    for server, raises in refused:
        with running(server) as service, RpcDevice(service.address, key=KEY, runtime="onnxruntime") as device, raises:
            device.conditions()


def test_errors_keep_their_family(device: RpcDevice, libraries: dict[str, Path], tmp_path: Path) -> None:
    corrupt = tmp_path / "corrupt.so"
    corrupt.write_bytes(b"no library at all" * 100)
    inputs = np.zeros((1, 8, 16, 16), np.float32)
    with pytest.raises(CompileError, match="corrupt.so cannot be loaded on the board: .*invalid ELF header"):
        device.run_model(corrupt, inputs)
    with pytest.raises(InvalidValueError, match="must be float32"):
        device.run_model(libraries["large"], inputs)
    with pytest.raises(InvalidValueError, match="at least one input"):
        device.run_model(libraries["small"], inputs[:0])
    good, bad, missing = device.measure([libraries["small"], corrupt, tmp_path / "missing.so"], None, QUICK)
    assert isinstance(good, Measurement)
    assert isinstance(bad, MeasureFailure) and bad.path == corrupt and "cannot be loaded" in bad.reason
    assert isinstance(missing, MeasureFailure) and "missing.so cannot be read" in missing.reason


def test_crashes_and_hangs_are_that_models_failures(board: Service, libraries: dict[str, Path], tmp_path: Path) -> None:
    crash, endless = odd_library("crash", tmp_path), odd_library("endless", tmp_path)
    protocol = MeasureProtocol(warmup_ms=2, min_rounds=3, max_rounds=3, min_sample_ms=0.3, timeout_sec=2)
    with RpcDevice(board.address, key=KEY, num_retries=1) as device:
        before, crashed, hung, after = device.measure(
            [libraries["small"], crash, endless, libraries["large"]], libraries["large"], protocol
        )
    assert isinstance(before, Measurement) and isinstance(after, Measurement)
    assert len(before.samples_ms) == len(after.samples_ms) == 3
    assert isinstance(crashed, MeasureFailure) and "connection was lost" in crashed.reason
    assert "tried 2 times" in crashed.reason
    assert isinstance(hung, MeasureFailure) and "no answer within 2 s" in hung.reason
    with RpcDevice(board.address, key=KEY) as device:  # neither holds the board
        measured(device.measure([libraries["small"]], None, QUICK))


def test_wrong_addresses_and_keys_are_one_error(board: Service, libraries: dict[str, Path]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with RpcDevice(address) as device, pytest.raises(TargetUnavailableError) as caught:
            device.measure([libraries["small"]], libraries["large"], QUICK)
    assert address in caught.value.message
    assert caught.value.fix == f"on the board: python -m hwautoml.devices.agent --port {address.rpartition(':')[2]}"
    with RpcDevice(board.address, key="wrong") as device, unavailable("key"):
        device.conditions()
    with RpcDevice(board.address, key=KEY, num_threads=1000) as device, pytest.raises(InvalidValueError, match="1000"):
        device.conditions()


def test_a_busy_board_is_waited_for_and_named(board: Service, libraries: dict[str, Path]) -> None:
    with RpcDevice(board.address, key=KEY) as first:
        first.conditions()
        busy = "busy with another client .* within 2 s"
        with RpcDevice(board.address, key=KEY, connect_timeout_sec=2) as second, unavailable(busy):
            second.conditions()
        with ThreadPoolExecutor() as threads, RpcDevice(board.address, key=KEY) as third:
            waiting = threads.submit(third.run_model, libraries["small"], np.zeros((1, 8, 16, 16), np.float32))
            with pytest.raises(TimeoutError):
                waiting.result(timeout=4)
            first.close()
            assert waiting.result(timeout=30).shape == (1, 8, 16, 16)


def test_a_silent_connection_does_not_hold_the_board(board: Service) -> None:
    with socket.create_connection(("127.0.0.1", board.port)), RpcDevice(board.address, key=KEY) as device:
        assert device.conditions()["connection"] == "rpc"


def test_another_tvm_server_serves_with_less_to_tell(libraries: dict[str, Path]) -> None:
    with running(PLAIN_SERVER) as service, RpcDevice(service.address, key=KEY) as device:
        small, large = measured(device.measure([libraries["small"], libraries["large"]], libraries["large"], QUICK))
        assert large.median_ms > 3 * small.median_ms
        assert small.conditions["cpu"] and small.conditions["os"] is None
        assert small.conditions["runtime_version"] == "unknown" == device.runtime_version
        assert small.conditions["peak_memory_bytes"] is None is small.conditions["preempted_share"]
        assert str(small.conditions["fingerprint"]).startswith(f"board-127.0.0.1-{service.port}-")
