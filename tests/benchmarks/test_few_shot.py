from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.few_shot import METRICS, family, main, metrics
from benchmarks.few_shot_peers import flops, ridge
from benchmarks.published import FBNET_ORDER
from benchmarks.published_terms import published_terms
from hwautoml.spaces import load_space

DEVICES = ("acpu_1", "bgpu_1", "cphone_1", "newboard_1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latencies of four devices: so much per layer, per multiply-accumulate and per byte."""
    space, rng = load_space("fbnet"), np.random.default_rng(0)
    arch = rng.integers(0, len(FBNET_ORDER), size=(300, 22)).astype(np.int8)
    order = np.array([space.choices[0].options.index(name) for name in FBNET_ORDER])
    terms = published_terms(space, order[arch])
    arrays = {"arch": arch}
    for name in DEVICES:
        per_layer, dense, depthwise, moved = rng.gamma(2.0, 0.5, 4) * (0.1, 2e-7, 6e-7, 1e-6)
        work = terms.work
        times = per_layer + dense * work.macs + depthwise * work.depthwise_macs + moved * work.bytes_moved
        latency_ms = terms.counts @ np.append(times, 1.0)
        arrays[f"latency_ms/{name}"] = latency_ms * (1 + 0.005 * rng.standard_normal(len(latency_ms)))
    path = tmp_path_factory.mktemp("few_shot") / "fbnet.npz"
    np.savez(path, **arrays)
    return path


def arguments(data: Path, *more: str) -> list[str]:
    return [
        "--space",
        "fbnet",
        "--data",
        str(data),
        "--siblings",
        ",".join(DEVICES[:3]),
        "--targets",
        "newboard_1",
        "--samples",
        "0,10",
        "--seeds",
        "2",
        "--sibling-networks",
        "80",
        *more,
    ]


def test_rows_are_as_promised_and_ours_is_best(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(arguments(data, "--json"))
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert all({"method", "space", "device", "samples", "seed", *METRICS} <= set(row) for row in rows)
    ten = {row["method"]: row["spearman"] for row in rows if row["samples"] == 10 and row["seed"] == 0}
    assert set(ten) == {"hwautoml", "flops", "ridge table", "sibling ridge"}
    assert ten["hwautoml"] > 0.99 and ten["hwautoml"] >= max(ten.values())
    assert {row["seed"] for row in rows} == {0, 1}


def test_the_table_names_every_method(data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main(arguments(data, "--selection", "random", "--out", str(tmp_path / "rows.json")))
    out = capsys.readouterr().out
    assert all(method in out for method in ("hwautoml", "flops", "ridge table", "sibling ridge"))
    assert json.loads((tmp_path / "rows.json").read_text())["rows"]


def test_unknown_devices_and_other_files_end_with_what_is_known(data: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no latencies of nosuch in .*it has acpu_1"):
        main([*arguments(data)[:-6], "--targets", "nosuch"])
    with pytest.raises(SystemExit, match="there is no file"):
        main(arguments(tmp_path / "missing.npz"))


def test_metrics_of_a_perfect_and_of_a_constant_prediction() -> None:
    actual = np.array([1.0, 2.0, 4.0])
    assert metrics(actual, actual, 0.1 * actual) == {
        "spearman": 1.0,
        "kendall": 1.0,
        "mape": 0.0,
        "median_ape": 0.0,
        "within_5": 1.0,
        "within_10": 1.0,
        "coverage_95": 1.0,
    }
    assert metrics(actual, np.ones(3))["spearman"] == 0.0


def test_peers_recover_what_they_can_express() -> None:
    rng = np.random.default_rng(0)
    features, measured = rng.random((60, 3)), np.arange(20)
    latency_ms = 2.0 + features @ np.array([1.0, 2.0, 3.0])
    assert ridge(features, measured, latency_ms[measured]) == pytest.approx(latency_ms, rel=1e-2)
    work = rng.random(60)
    assert flops(work, measured, (1 + 4 * work)[measured]) == pytest.approx(1 + 4 * work)


def test_families_are_what_stands_before_the_first_underscore() -> None:
    assert family("1080ti_32") == "1080ti" and family("pixel3") == "pixel3"
