"""Boards that go away, come back or end a session over TVM's RPC, and processes that must end."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hwautoml.devices.protocol import MeasureProtocol
from hwautoml.devices.rpc import RpcDevice
from tests.devices.rpc_boards import (
    KEY,
    PLAIN_SERVER,
    QUICK,
    Service,
    agent,
    becomes_true,
    measured,
    odd_library,
    processes_of_group,
    running,
    unavailable,
)

pytestmark = pytest.mark.slow


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
            [libraries["small"], libraries["large"]],
            libraries["large"],
            QUICK,
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
            [libraries["small"]],
            libraries["large"],
            QUICK,
            lambda done, total, text: service.kill() if text == "round 1" else None,
        )


def test_a_session_that_expires_is_renewed(libraries: dict[str, Path]) -> None:
    """Servers other than our agent end sessions by the clock, whatever they are doing."""
    slow = MeasureProtocol(warmup_ms=2, min_rounds=15, max_rounds=15, min_sample_ms=60, timeout_sec=20)
    with running(PLAIN_SERVER) as service, RpcDevice(service.address, key=KEY, session_timeout_sec=1) as device:
        first_worker = device.conditions() and device.worker_pid
        (result,) = measured(device.measure([libraries["small"]], libraries["large"], slow))
        assert len(result.samples_ms) == 15 and "interrupted" not in result.conditions
        assert device.worker_pid != first_worker


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
