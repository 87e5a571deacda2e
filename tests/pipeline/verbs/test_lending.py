"""Verbs on boards: real agents on loopback, which stand for boards of this machine's own kind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hwautoml import pipeline
from hwautoml.compilers.base import BoardRoute, Tuning
from hwautoml.compilers.tvm import CompilerPool
from hwautoml.core.resources import package_folder
from hwautoml.devices.machine import cpu_model
from hwautoml.devices.tracker import list_devices
from hwautoml.errors import InvalidValueError, TargetUnavailableError
from hwautoml.pipeline.tables.probes import deployable_probe
from hwautoml.pipeline.verbs.tuning import telling_networks
from hwautoml.schedules.records import Records
from hwautoml.spaces import load_space
from hwautoml.testing.runtimes import this_machine
from tests.devices.rpc_boards import KEY, TRACKER, Service, agent, becomes_true, processes_of_group, running
from tests.pipeline.shared_tables import layer_as_onnx

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def board() -> Iterator[Service]:
    with running(agent()) as service:
        yield service


@pytest.fixture
def targets_dir(tmp_path: Path) -> Path:
    """With ``board``: this machine's processor, reached over the network only."""
    text = (package_folder("targets") / "cpu.toml").read_text(encoding="utf-8")
    changes = {
        'kind = "cpu"': 'kind = "edge"',
        'connection = "local"': 'connection = "rpc"',
        'runtimes = ["onnxruntime", "tvm"]': 'runtimes = ["tvm"]',
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new, 1)
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "board.toml").write_text(text, encoding="utf-8")
    return tmp_path / "targets"


def test_one_board_tells_about_itself(board: Service) -> None:
    (row,) = pipeline.boards(device=board.address, key=KEY)
    (report,) = row.reports
    assert (row.address, row.state, row.reason) == (board.address, "free", None)
    assert report["agent"] and report["cpu"] and report["emulator"] is None
    assert KEY not in json.dumps(row.to_json()) and "num_boards" not in row.to_json()


def test_a_board_that_is_not_there_is_a_row_and_a_missing_tracker_an_error(board: Service) -> None:
    with running(agent()) as service:
        address = service.address
    (row,) = pipeline.boards(device=address, key=KEY)
    assert (row.state, row.reports) == ("unreachable", ())
    assert "hwautoml.devices.agent" in row.reason
    with pytest.raises(TargetUnavailableError, match="no tracker answers"):
        pipeline.boards(tracker=address)
    with pytest.raises(InvalidValueError, match="got both"):
        pipeline.boards(device=address, tracker=address)


def test_a_tracker_lists_its_kinds_with_a_report_of_each_free_board() -> None:
    with running(TRACKER) as tracker:
        assert pipeline.boards(tracker=tracker.address) == ()
        with running(agent(tracker=tracker.address)) as one, running(agent(tracker=tracker.address)) as two:
            assert becomes_true(lambda: [b.num_free for b in list_devices(tracker.address)] == [2])
            (row,) = pipeline.boards(tracker=tracker.address)
            assert (row.key, row.state, row.num_boards, row.num_free) == (KEY, "free", 2, 2)
            assert len(row.reports) == 2 and all(report["agent"] for report in row.reports)
            assert set(row.address.split(", ")) == {one.address, two.address}
            assert pipeline.boards(tracker=tracker.address, key="rpi4") == ()
            assert becomes_true(lambda: list_devices(tracker.address)[0].num_free == 2)  # they were let go of


def test_the_agent_command_serves_and_ends_when_told_to() -> None:
    command = [sys.executable, "-m", "hwautoml.cli", "agent", "--port", "0", "--key", KEY, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    try:
        told = b""
        while b"}" not in told and (part := os.read(process.stdout.fileno(), 4096)):
            told += part
        address = json.loads(told)["listening"]
        assert address.startswith("127.0.0.1:")
        assert pipeline.boards(device=address, key=KEY)[0].state == "free"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_run_measures_its_candidates_on_the_board(board: Service, targets_dir: Path, tmp_path: Path) -> None:
    result = pipeline.run(
        "digits",
        target="board",
        latency_ms=5.0,
        budget_sec=60.0,
        out=tmp_path / "run",
        device=board.address,
        key=KEY,
        targets_dir=targets_dir,
        profiles_dir=tmp_path / "profiles",
    )
    assert result.runtime == "tvm" and set(result.latency_ms.by_runtime) == {"tvm"}
    assert result.latency_ms.measured_interval[1] <= 5.0
    manifest = json.loads((Path(result.bundle) / "manifest.json").read_text())
    assert manifest["default_runtime"] == "tvm"
    text = json.dumps(manifest["conditions"])
    assert '"connection": "rpc"' in text and board.address in text and KEY not in text
    (table,) = (tmp_path / "profiles" / "board").glob("tvm-*.json")
    assert json.loads(table.read_text())["conditions"]["fingerprint"].endswith("-rpc")
    assert pipeline.boards(device=board.address, key=KEY)[0].state == "free"


def test_onnx_files_are_benched_in_the_boards_onnx_runtime(board: Service, targets_dir: Path, tmp_path: Path) -> None:
    """With what TVM makes of the same file, in the same rounds."""
    space = load_space("mobile", image_size=8, channels=1, num_outputs=10)
    network = deployable_probe(space, space.sample(np.random.default_rng(0)), tmp_path / "some.onnx")
    command = [
        "bench",
        str(network),
        "--target",
        "board",
        "--targets-dir",
        str(targets_dir),
        "--budget",
        "10s",
        "--device",
        board.address,
        "--key",
        KEY,
        "--profiles-dir",
        str(tmp_path / "profiles"),
    ]
    rows = {}
    for runtimes in ("onnxruntime", "onnxruntime,tvm"):
        done = subprocess.run(
            [sys.executable, "-m", "hwautoml.cli", *command, "--runtime", runtimes, "--json"],
            stdout=subprocess.PIPE,
            check=True,
        )
        rows[runtimes] = {row["runtime"]: row for row in json.loads(done.stdout)["rows"]}
        assert ",".join(sorted(rows[runtimes])) == runtimes
        for name, row in rows[runtimes].items():
            assert row["median_ms"] > 0 and row["conditions"]["runtime"] == name
            assert row["conditions"]["address"] == board.address
    with pytest.raises(InvalidValueError, match="it runs tvm and onnxruntime"):
        pipeline.bench(
            [network], target="board", targets_dir=targets_dir, runtime="torch", device=board.address, key=KEY
        )


def test_kernels_are_tuned_on_the_board(board: Service, targets_dir: Path, tmp_path: Path) -> None:
    """Candidates are compiled here and timed there; networks for the board then compile by look-up."""
    num_tried, profiles_dir = [], tmp_path / "profiles"
    for _ in range(2):
        result = pipeline.tune(
            "board",
            space="nasbench201",
            budget_sec=15.0,
            device=board.address,
            key=KEY,
            targets_dir=targets_dir,
            profiles_dir=profiles_dir,
        )
        assert board.address in result.device and KEY not in json.dumps(result.to_json())
        (entries,) = Records.load(profiles_dir / "board" / "tvm_records.json").by_target.values()
        num_known = sum(record.tiling is not None and record.time_us > 0 for record in entries.values())
        assert 0 < result.num_recorded <= num_known
        num_tried.append(sum(record.num_tried for record in entries.values()))
    assert 0 < num_tried[0] < num_tried[1], "the same command goes on"
    assert pipeline.boards(device=board.address, key=KEY)[0].state == "free"
    space = load_space("nasbench201")
    network = deployable_probe(space, telling_networks(space, seed=0)[0], tmp_path / "net.onnx")
    options = {"target": "board", "key": KEY, "targets_dir": targets_dir, "profiles_dir": profiles_dir}
    compiled = pipeline.compile(network, device=board.address, **options)
    assert compiled["tuned"] > 0 and compiled["parity"]["max_relative"] < 1e-4 and compiled["seconds"]["tune"] == 0
    again = pipeline.compile(network, device=board.address, tune_sec=5.0, out=tmp_path / "again", **options)
    assert again["tuned"] >= compiled["tuned"] and again["seconds"]["tune"] > 0
    with pytest.raises(TargetUnavailableError):  # before anything is compiled
        pipeline.compile(network, device="127.0.0.1:9", tune_sec=5.0, out=tmp_path / "never", **options)
    assert not (tmp_path / "never").exists()


def test_a_candidate_that_ends_the_session_is_skipped(tmp_path: Path) -> None:
    """The session gets the signal that a bad candidate would cause; the agent starts anew, and tuning goes on."""
    space, path, killed = load_space("nasbench201"), tmp_path / "records.json", []
    layer = [layer for layer in space.all_layers() if layer.kind == "avgpool"][-1]
    source = layer_as_onnx(space, layer, tmp_path / "layer.onnx")
    with running(agent()) as service, CompilerPool() as pool:

        def kill_once(done: int, _total: int, message: str) -> None:
            if message.startswith("tuning") and done == 2 and not killed:
                killed.extend(set(processes_of_group(service.process.pid)) - {service.process.pid})
                for process in killed:
                    os.kill(process, signal.SIGSEGV)

        route = BoardRoute("127.0.0.1", service.port, KEY, False, cpu_model())
        tuned = pool.tune([source], this_machine(), Tuning(path, budget_sec=30.0, board=route), on_progress=kill_once)
    (entries,) = Records.load(path).by_target.values()
    assert killed and tuned.num_recorded == 1 and tuned.num_trials > 0
    assert [len(record.crashed) for record in entries.values() if record.crashed] == [1]
