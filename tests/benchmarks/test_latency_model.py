"""The benchmark's arithmetic, and the whole of it on a few networks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.latency_model import SPACE, Session, agreement, compared
from benchmarks.latency_networks import draw
from benchmarks.latency_peers import PEERS
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.observation import Entry, Observation
from hwautoml.core.table_identity import TableIdentity


def test_agreement_counts_relative_errors() -> None:
    found = agreement(np.array([1.0, 2.08, 3.3, 5.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert (found["within_5"], found["within_10"]) == (0.5, 0.75)
    assert found["mean_error"] == pytest.approx((0 + 0.04 + 0.1 + 0.25) / 4, rel=1e-6)
    assert found["kendall_tau"] == found["spearman"] == pytest.approx(1.0)


def test_the_speed_of_the_reference_divides_out_and_failed_networks_are_left_out() -> None:
    """The second session ran at half the speed, and 1 % off; the third network failed in it."""
    truth = np.array([1.0, 2.0, 3.0, 4.0])
    first = Session(truth, np.ones(4), [])
    second = Session(1.01 * np.array([2.0, 4.0, np.nan, 8.0]), np.full(4, 2.0), [])
    rows = compared({"table": 1.01 * truth, "deviation": 0.02 * truth, "peer": 2 * truth}, [first, second], 1.0)
    by_name = {(row["method"], row["clock"]): row for row in rows}
    assert by_name["measuring twice", "reference"]["mean_error"] == pytest.approx(0.01)
    assert by_name["measuring twice", "wall"]["mean_error"] == pytest.approx(1.02)
    assert by_name["table", "reference"]["networks"] == 3
    assert by_name["table", "reference"]["coverage_95"] == 1.0
    assert by_name["table", "reference"]["ratio_to_repeat"] == pytest.approx(1.0)
    assert by_name["peer", "wall"]["mean_error"] == pytest.approx(1.0)


def test_peers_learn_from_the_same_table() -> None:
    """Layers take what their work says, and are stated 20 % too high."""
    rng = np.random.default_rng(0)
    time_ms = {layer.key: 0.002 + SPACE.cost(layer).macs / 1e8 for layer in SPACE.all_layers()}
    entries = {key: Entry(1.2 * ms, 0.01 * ms) for key, ms in time_ms.items()}
    identity = TableIdentity("cpu", "onnxruntime", 1, 1, "fp32", SPACE.family)
    table = LatencyTable(identity, entries, Entry(0.01, 0.001))

    def network_ms(layers: object) -> float:
        return 0.01 + sum(time_ms[layer.key] for layer in layers)  # type: ignore[attr-defined]

    seen = [SPACE.layers(SPACE.sample(rng)) for _ in range(60)]
    table = table.with_observations([Observation("0" * 12, table.counts(x), network_ms(x), 0.001) for x in seen])
    unseen = [SPACE.layers(a) for a in draw(SPACE, 40, seed=1)]
    truth = np.array([network_ms(layers) for layers in unseen])
    found = {name: agreement(peer(table, SPACE, unseen), truth) for name, peer in PEERS.items()}
    assert found["ridge on counts"]["spearman"] > 0.3  # sixty networks are few for a thousand coefficients
    assert all(row["spearman"] > 0.9 for name, row in found.items() if name != "ridge on counts")
    assert found["sum of layers"]["mean_error"] == pytest.approx(0.2, abs=0.03)
    assert found["sum of layers, levelled"]["mean_error"] < 0.03


@pytest.mark.slow
def test_the_whole_benchmark_on_three_networks(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks.latency_model",
        "--runtimes",
        "onnxruntime",
        "--networks",
        "3",
        "--profile-budget",
        "40s",
        "--quick-export",
        "--folder",
        str(tmp_path / "work"),
        "--out",
        str(out),
    ]
    for _ in range(2):  # the second run finds everything
        subprocess.run(command, check=True, timeout=300)
    rows = json.loads(out.read_text())["rows"]
    methods = {row["method"] for row in rows}
    assert methods == {"table", "measuring twice", "speed", *PEERS}
    (table,) = [row for row in rows if row["method"] == "table" and row["clock"] == "reference"]
    assert table["networks"] == 3
    assert table["mean_error"] < 0.5
