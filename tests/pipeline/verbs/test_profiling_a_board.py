"""``profile`` over TVM's RPC, against real agents and a tracker on loopback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwautoml.core.form import Form
from hwautoml.core.latency_file import load, save
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.target import Target
from hwautoml.errors import InvalidValueError, TargetUnavailableError
from hwautoml.pipeline import profile
from hwautoml.pipeline.tables.finding import ensure_table, identity_of
from hwautoml.spaces.mobile import MobileSpace
from hwautoml.store.table_library import TableLibrary, few_shot_path
from tests.devices.rpc_boards import KEY, TRACKER, agent, becomes_true, running
from tests.pipeline.shared_tables import as_measured

pytestmark = pytest.mark.slow
BOARD = """
description = "this machine behind an agent"
kind = "edge"
runtimes = ["tvm", "onnxruntime", "torch"]
num_threads = 1
precisions = ["fp32"]
memory_bytes = 1_000_000_000
peak_gflops = 50.0
bandwidth_gb_s = 10.0
connection = "rpc"
[tvm]
kind = "llvm"
mcpu = "native"
"""


@pytest.fixture
def options(tmp_path: Path, table: LatencyTable, monkeypatch: pytest.MonkeyPatch) -> dict:
    """A target that is reached over the network, a sibling's table, and folders of its own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "board.toml").write_text(BOARD, encoding="utf-8")
    save(as_measured(table), tmp_path / "sibling.json")
    return {
        "image_size": 8,
        "channels": 1,
        "like": [tmp_path / "sibling.json"],
        "targets_dir": tmp_path / "targets",
        "profiles_dir": tmp_path / "p",
    }


def test_a_few_networks_on_a_board(tmp_path: Path, options: dict, space: MobileSpace) -> None:
    with running(agent()) as service:
        made = profile("board", device=service.address, key=KEY, measurements=2, **options)
        path = made.path
        lines = path.with_suffix(".journal.jsonl").read_text(encoding="utf-8").splitlines()
        again = profile("board", device=service.address, key=KEY, measurements=2, **options)
    assert (made.origin, made.num_networks, made.identity.runtime) == ("measured", 2, "tvm")
    assert made.conditions["connection"] == "rpc" and made.conditions["fingerprint"].endswith("-rpc")
    assert KEY not in path.read_text(encoding="utf-8"), "the key of an agent is a secret"
    assert again.num_networks == 2
    assert path.with_suffix(".journal.jsonl").read_text(encoding="utf-8").splitlines() == lines
    target = Target(
        name="board",
        description="",
        kind="edge",
        runtimes=("tvm",),
        tvm={"kind": "llvm"},
        num_threads=1,
        precisions=("fp32",),
        memory_bytes=1,
        peak_gflops=1.0,
        bandwidth_gb_s=1.0,
        connection="rpc",
    )
    assert path == few_shot_path(TableLibrary(tmp_path / "p").table_path(identity_of(target, Form("tvm"), space)))
    # The board is off now, and its table serves on.
    assert ensure_table(target, Form("tvm"), space, TableLibrary(tmp_path / "p"), budget_sec=1.0) == load(path)


def test_a_board_behind_a_tracker_layer_by_layer(tmp_path: Path, options: dict) -> None:
    del options["like"]
    with running(TRACKER) as tracker, running(agent(key="oldboards", tracker=tracker.address)):
        from hwautoml.devices.tracker import list_devices

        assert becomes_true(lambda: any(b.num_free for b in list_devices(tracker.address)))
        made = profile("board", tracker=tracker.address, key="oldboards", budget_sec=12.0, **options)
    assert made.num_measured >= 1 and made.origin == "measured"
    header = json.loads(made.path.with_suffix(".journal.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert (header["target"], header["runtime"]) == ("board", "tvm") and header["machine"].endswith("-rpc")


def test_this_machine_behind_an_agent_has_a_table_of_its_own(options: dict) -> None:
    with running(agent()) as service:
        remote = profile("cpu", device=service.address, key=KEY, measurements=1, **options)
    assert remote.path.name == "tvm-mobile-v1-8x8x1-t1-b1-fp32-rpc.few-shot.json"


def test_layers_in_the_boards_onnx_runtime(options: dict) -> None:
    del options["like"]
    with running(agent()) as service:
        made = profile("board", device=service.address, key=KEY, runtime="onnxruntime", budget_sec=8.0, **options)
    assert made.num_measured >= 1 and made.origin == "measured"
    assert made.conditions["runtime"] == "onnxruntime" and made.conditions["connection"] == "rpc"
    assert made.conditions["fingerprint"].endswith("-rpc") and "-onnxruntime-" in made.conditions["fingerprint"]


def test_what_a_board_cannot_do_is_said_before_anything_is_built(tmp_path: Path, options: dict) -> None:
    with pytest.raises(TargetUnavailableError, match="no board is named"):
        profile("board", **options)
    with pytest.raises(InvalidValueError, match="fix: --runtime tvm"):
        profile("board", device="127.0.0.1:1", runtime="torch", **options)
    with pytest.raises(TargetUnavailableError, match="board 127.0.0.1:1 cannot be used"):
        profile("board", device="127.0.0.1:1", **options)
    assert not (tmp_path / "p").exists()
