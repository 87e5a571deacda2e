"""Devices over TVM's RPC, against real servers and trackers on loopback."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hwautoml.compilers import load_backend
from hwautoml.core.measurement import Measurement
from hwautoml.devices.board_pool import BoardPool
from hwautoml.devices.protocol import MeasureFailure, MeasureProtocol
from hwautoml.devices.rpc import RpcDevice
from hwautoml.devices.tracker import Boards, list_devices
from hwautoml.errors import CompileError, InvalidValueError, MeasurementError, TargetUnavailableError
from tests.compilers.graphs import GraphBuilder
from tests.devices.rpc_boards import (
    AGENT_WITHOUT_ONNX,
    KEY,
    PLAIN_SERVER,
    TRACKER,
    Service,
    agent,
    becomes_true,
    odd_library,
    processes_of_group,
    running,
    slow_network,
)  # fmt: skip

QUICK = MeasureProtocol(warmup_ms=2, min_rounds=6, max_rounds=8, min_sample_ms=0.3, timeout_sec=20)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """``small.onnx`` and ``large.onnx`` with what they were compiled to."""
    folder, found = tmp_path_factory.mktemp("libraries"), {}
    for name, channels in (("small", 8), ("large", 64)):
        graph = GraphBuilder((2, channels, 16, 16))
        found[f"{name}.onnx"] = graph.save(
            folder / f"{name}.onnx", graph.conv(graph.input.name, channels, channels, 3), rank=4
        )
        compiled = load_backend("tvm").compile_model(
            found[f"{name}.onnx"], folder / name, tvm_target={"kind": "llvm", "mcpu": "native"}
        )
        found[name] = compiled.path
    return found


@pytest.fixture(scope="module")
def board() -> Iterator[Service]:
    with running(agent()) as service:
        yield service


@pytest.fixture
def device(board: Service) -> Iterator[RpcDevice]:
    with RpcDevice(board.address, key=KEY) as opened:
        yield opened


def unavailable(match: str) -> pytest.RaisesExc[TargetUnavailableError]:
    return pytest.raises(TargetUnavailableError, match=match)


def measured(results: list[Measurement | MeasureFailure]) -> list[Measurement]:
    assert all(isinstance(result, Measurement) for result in results), results
    return [result for result in results if isinstance(result, Measurement)]


def test_networks_are_timed_on_the_board(device: RpcDevice, libraries: dict[str, Path]) -> None:
    progress: list[tuple[int, int, str]] = []
    protocol = MeasureProtocol(warmup_ms=2, min_rounds=6, max_rounds=8, min_sample_ms=0.3, num_singles=100)
    large, small = measured(
        device.measure(
            [libraries["large"], libraries["small"]], libraries["large"], protocol,
            lambda done, total, text: progress.append((done, total, text)),
        )
    )
    assert large.median_ms > 3 * small.median_ms
    assert large.drift_corrected and protocol.min_rounds <= len(large.samples_ms) <= protocol.max_rounds
    assert small.conditions["num_inner"] > large.conditions["num_inner"]  # type: ignore[operator]
    assert len(large.single_ms) == 100 and large.p95_ms is not None
    assert progress[-1][:2] == (2, 2)
    conditions = large.conditions
    for name in ("cpu", "num_cores", "os", "date", "load_average", "runtime_version", "noise_floor_relative",
                 "reference_median_ms", "load_ms", "peak_memory_bytes", "preempted_share", "affinity"):
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


def test_crashes_and_hangs_are_that_models_failures(
    board: Service, libraries: dict[str, Path], tmp_path: Path
) -> None:
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


def test_a_board_that_comes_back_goes_on_where_it_was(libraries: dict[str, Path]) -> None:
    services = [Service(agent())]

    def pull_the_plug_once(done: int, total: int, text: str) -> None:
        if text == "round 4" and len(services) == 1:
            services[0].kill()
            services.append(Service(agent(services[0].port)))

    try:
        with RpcDevice(services[0].address, key=KEY) as device:
            results = measured(
                device.measure([libraries["small"], libraries["large"]], libraries["large"], QUICK, pull_the_plug_once)
            )
    finally:
        services[-1].kill()
    assert len(services) == 2
    assert all(len(result.samples_ms) >= QUICK.min_rounds for result in results)
    assert all("interrupted" not in result.conditions for result in results)


def test_nothing_measured_is_lost_when_the_board_stays_away(libraries: dict[str, Path]) -> None:
    with running(agent()) as service, RpcDevice(service.address, key=KEY, connect_timeout_sec=2) as device:
        results = device.measure(
            [libraries["small"], libraries["large"]], libraries["large"], QUICK,
            lambda done, total, text: service.kill() if text == "round 4" else None,
        )
        for result in measured(results):
            assert len(result.samples_ms) == 3
            assert result.drift_corrected and service.address in str(result.conditions["interrupted"])
        with unavailable(service.address):
            device.measure([libraries["small"]], libraries["large"], QUICK)


def test_a_board_lost_before_the_first_sample_is_one_error(libraries: dict[str, Path]) -> None:
    with (
        running(agent()) as service,
        RpcDevice(service.address, key=KEY, connect_timeout_sec=2) as device,
        unavailable(service.address),
    ):
        device.measure(
            [libraries["small"]], libraries["large"], QUICK,
            lambda done, total, text: service.kill() if text == "round 1" else None,
        )


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
        small, large = measured(
            device.measure([libraries["small"], libraries["large"]], libraries["large"], QUICK)
        )
        assert large.median_ms > 3 * small.median_ms
        assert small.conditions["cpu"] and small.conditions["os"] is None
        assert small.conditions["runtime_version"] == "unknown" == device.runtime_version
        assert small.conditions["peak_memory_bytes"] is None is small.conditions["preempted_share"]
        assert str(small.conditions["fingerprint"]).startswith(f"board-127.0.0.1-{service.port}-")


def test_a_session_that_expires_is_renewed(libraries: dict[str, Path]) -> None:
    """Servers other than our agent end sessions by the clock, whatever they are doing."""
    slow = MeasureProtocol(warmup_ms=2, min_rounds=15, max_rounds=15, min_sample_ms=60, timeout_sec=20)
    with running(PLAIN_SERVER) as service, RpcDevice(service.address, key=KEY, session_timeout_sec=1) as device:
        first_worker = device.conditions() and device.worker_pid
        (result,) = measured(device.measure([libraries["small"]], libraries["large"], slow))
        assert len(result.samples_ms) == 15 and "interrupted" not in result.conditions
        assert device.worker_pid != first_worker


def test_boards_of_a_tracker(libraries: dict[str, Path]) -> None:
    with running(TRACKER) as tracker:
        assert list_devices(tracker.address) == []
        absent = "none is registered; the tracker has no boards at all"
        with RpcDevice(tracker.address, key=KEY, is_tracker=True) as device, unavailable(absent):
            device.conditions()
        with running(agent(tracker=tracker.address)) as one, running(agent(tracker=tracker.address)) as two:
            boards = Boards(KEY, tuple(sorted([one.address, two.address])), num_free=2, num_waiting=0)
            assert becomes_true(lambda: list_devices(tracker.address) == [boards])
            both_boards_in_parallel(tracker.address, libraries)
            assert becomes_true(lambda: list_devices(tracker.address) == [boards])
            two.kill()
            one_board_for_two_clients(tracker.address, libraries)


def both_boards_in_parallel(tracker: str, libraries: dict[str, Path]) -> None:
    with (
        RpcDevice(tracker, key=KEY, is_tracker=True) as first,
        RpcDevice(tracker, key=KEY, is_tracker=True) as second,
        ThreadPoolExecutor() as threads,
    ):
        conditions = first.conditions(), second.conditions()
        assert all(found["key"] == KEY and found["address"] == tracker for found in conditions)
        assert list_devices(tracker)[0].num_free == 0
        calls = [threads.submit(d.measure, [libraries["small"]], libraries["large"], QUICK) for d in (first, second)]
        for call in calls:
            measured(call.result())


def one_board_for_two_clients(tracker: str, libraries: dict[str, Path]) -> None:
    assert becomes_true(lambda: len(list_devices(tracker)[0].addresses) == 1)
    with RpcDevice(tracker, key=KEY, is_tracker=True) as first:
        first.conditions()
        busy = "none of 1 became free within 2 s"
        with RpcDevice(tracker, key=KEY, is_tracker=True, connect_timeout_sec=2) as second, unavailable(busy):
            second.conditions()
        with RpcDevice(tracker, key="rpi4", is_tracker=True) as other, unavailable(f"the tracker has {KEY}"):
            other.conditions()
    with RpcDevice(tracker, key=KEY, is_tracker=True) as third:  # the client that gave up is not served
        measured(third.measure([libraries["small"]], None, QUICK))


CLIENT = """
import sys
from pathlib import Path
import numpy as np
from hwautoml.devices.rpc import RpcDevice
device = RpcDevice(sys.argv[1], key=sys.argv[2])
device.conditions()
print(device.worker_pid, flush=True)
device.run_model(Path(sys.argv[3]), np.zeros((1, 4), np.float32), timeout_sec=3)
"""


def test_neither_side_leaves_processes_behind(tmp_path: Path) -> None:
    """The client is killed while the board hangs in a kernel; the board is free again; its agent ends at once."""
    endless = odd_library("endless", tmp_path)
    with running(agent()) as service:
        client = subprocess.Popen(
            [sys.executable, "-c", CLIENT, service.address, KEY, str(endless)], stdout=subprocess.PIPE, text=True
        )
        assert client.stdout is not None
        worker = int(client.stdout.readline())
        client.kill()
        client.wait()
        client.stdout.close()
        assert becomes_true(lambda: not processes_of_group(worker))
        with RpcDevice(service.address, key=KEY) as device:
            device.conditions()
            assert len(processes_of_group(service.process.pid)) == 3
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(timeout=20) == 0
            assert becomes_true(lambda: not processes_of_group(service.process.pid))


def test_all_boards_of_a_tracker_measure_together(libraries: dict[str, Path]) -> None:
    paths = [libraries[name] for name in ("small", "large", "small", "large", "small")]
    with (
        running(TRACKER) as tracker,
        running(agent(tracker=tracker.address)),
        running(agent(tracker=tracker.address)),
        BoardPool(tracker.address, key=KEY) as pool,
    ):
        assert becomes_true(lambda: [b.num_free for b in list_devices(tracker.address)] == [2])
        progress: list[tuple[int, int]] = []
        results = measured(
            pool.measure(paths, libraries["large"], QUICK, lambda done, total, _text: progress.append((done, total)))
        )
        assert pool.num_boards == 2 and list_devices(tracker.address)[0].num_free == 0
        small, large = [r.median_ms for r in results[0::2]], [r.median_ms for r in results[1::2]]
        assert min(large) > 2 * max(small)  # in order, whichever board they were on
        assert len({r.conditions["reference_median_ms"] for r in results}) == 1  # brought to one speed
        assert len({r.conditions["board_speed"] for r in results}) == 2
        assert progress[-1] == (5, 5)
        pool.close()
        assert becomes_true(lambda: list_devices(tracker.address)[0].num_free == 2)


def test_what_a_lost_board_had_left_the_others_measure(libraries: dict[str, Path]) -> None:
    paths = [libraries["small"], libraries["large"]] * 2
    with running(TRACKER) as tracker, running(agent(tracker=tracker.address)) as one:
        lost = Service(agent(tracker=tracker.address))
        try:
            with BoardPool(tracker.address, key=KEY, connect_timeout_sec=2) as pool:
                assert becomes_true(lambda: [b.num_free for b in list_devices(tracker.address)] == [2])
                results = measured(
                    pool.measure(
                        paths, libraries["large"], QUICK,
                        lambda done, total, text: lost.kill() if text == "round 1" else None,
                    )
                )
                assert len(results) == len(paths)
                one.kill()
                with unavailable("cannot be used"):
                    pool.measure(paths, libraries["large"], QUICK)
        finally:
            lost.kill()
