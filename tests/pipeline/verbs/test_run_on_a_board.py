"""``run --device`` against a real agent on loopback, which stands for a board of this machine's own kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwautoml.pipeline import run
from hwautoml.store.run_store import RunStore
from tests.devices.rpc_boards import KEY, agent, running

pytestmark = pytest.mark.slow
BOARD = """
description = "this machine behind an agent"
kind = "edge"
runtimes = ["tvm", "onnxruntime"]
num_threads = 1
precisions = ["fp32", "int8"]
memory_bytes = 1_000_000_000
peak_gflops = 50.0
bandwidth_gb_s = 10.0
connection = "rpc"
[tvm]
kind = "llvm"
mcpu = "native"
"""


def test_a_network_is_searched_measured_and_shipped_in_int8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates are predicted and measured there in int8, and so is what ships, beside its fp32 form."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "board.toml").write_text(BOARD, encoding="utf-8")
    with running(agent()) as service:
        result = run(
            "digits",
            target="board",
            latency_ms=1.0,
            precision="int8",
            budget_sec=50.0,
            out=tmp_path / "run",
            device=service.address,
            key=KEY,
            targets_dir=tmp_path,
        ).to_json()
    assert (result["runtime"], result["precision"]) == ("tvm", "int8") and result["accuracy"]["test"] > 0.9
    assert result["latency_ms"]["predicted_precision"] == "int8" and result["latency_ms"]["measured_interval"][1] <= 1
    assert result["conditions"]["connection"] == "rpc"
    assert {"tvm", "tvm-int8"} <= set(result["finalists"][0]["measured"])
    assert (tmp_path / "run" / "tables" / "tvm-int8.json").is_file()
    manifest = json.loads((tmp_path / "run" / "bundle" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["precision"] == "int8" and manifest["default_runtime"] == "tvm"
    with RunStore(tmp_path / "run") as store:
        screened = [p for _, p in store.measurements("board", "tvm") if p["weights"] == "random"]
    assert screened and all(payload["precision"] == "int8" for payload in screened)
