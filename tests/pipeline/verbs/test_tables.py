from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwautoml.core.latency_file import load, save
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.observation import Entry, Observation
from hwautoml.errors import RunFolderError
from hwautoml.pipeline import compare_tables, inspect_table, merge_tables
from hwautoml.spaces.mobile import MobileSpace

CONDITIONS = {"runtime_version": "1.0", "fingerprint": "a-machine", "reference_median_ms": 2.0, "date": "2026-01-01"}


@pytest.fixture
def measured(table: LatencyTable, space: MobileSpace) -> LatencyTable:
    """As if measured: 5 % deviations, and three networks that take 10 % more than the entries' sum."""
    entries = {key: Entry(e.mean_ms, 0.05 * e.mean_ms) for key, e in table.entries.items()}
    made = replace(table, entries=entries, conditions=CONDITIONS)
    return made.with_observations([observation(made, space, seed) for seed in range(3)])


def observation(table: LatencyTable, space: MobileSpace, seed: int) -> Observation:
    architecture = space.sample(np.random.default_rng(seed))
    layers = space.layers(architecture)
    expected = table.overhead.mean_ms + sum(table.entries[table.key(layer)].mean_ms for layer in layers)
    return Observation(architecture.id, table.counts(layers), 1.1 * expected)


def saved(table: LatencyTable, path: Path) -> Path:
    save(table, path)
    return path


# One table.


def counted_share(table: LatencyTable, space: MobileSpace, key: str) -> float:
    """Of other random networks' time, layer by layer."""
    rng, of_layer, of_all = np.random.default_rng(5), 0.0, 0.0
    times = dict(zip(table.entries, table.posterior.mean, strict=False))
    for _ in range(2000):
        keys = [table.key(layer) for layer in space.layers(space.sample(rng))]
        of_layer += keys.count(key) * times[key]
        of_all += sum(times[k] for k in keys) + table.posterior.mean[-1]
    return of_layer / of_all


def test_inspecting_lists_what_costs_most_and_how_networks_are_explained(
    tmp_path: Path, measured: LatencyTable, space: MobileSpace
) -> None:
    path = saved(measured, tmp_path / "t.json")
    found = inspect_table(path, picture=tmp_path / "t.png")
    assert (found.facts.identity, found.facts.origin) == (measured.identity, "measured")
    assert found.facts.num_measured == len(measured.entries) and found.facts.num_networks == 3
    times = [row.ms for row in found.most_ms]
    assert len(times) == 10 and times == sorted(times, reverse=True)
    assert times[0] == pytest.approx(max(load(path).posterior.mean[:-1]))
    shares = [row.share for row in found.most_share]
    assert len(shares) == 10 and shares == sorted(shares, reverse=True) and 0 < sum(shares) < 1
    assert shares[0] == pytest.approx(counted_share(load(path), space, found.most_share[0].key), rel=0.25)
    for row in found.networks:
        assert row.fitted_ms == pytest.approx(row.measured_ms, rel=0.05)
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    told = found.to_json()
    assert told["target"] == "cpu" and told["most_ms"][0]["ms"] == times[0] and told["picture"] == str(found.picture)


def test_an_estimated_table_says_so_when_it_is_inspected(tmp_path: Path, table: LatencyTable) -> None:
    found = inspect_table(saved(table, tmp_path / "t.json"), picture=tmp_path / "t.png")
    assert found.facts.origin == "estimated" and found.networks == () and found.facts.holdout is None
    assert {row.origin for row in found.most_ms} == {"estimated"}
    assert (tmp_path / "t.png").is_file()


# Two tables.


def test_a_table_does_not_differ_from_itself(tmp_path: Path, measured: LatencyTable) -> None:
    path = saved(measured, tmp_path / "t.json")
    found = compare_tables(path, path)
    assert found.differences == found.only_first == found.only_second == ()
    assert found.level_ratio == found.spearman == 1.0 and found.share_apart == 0.0
    assert found.correlation == pytest.approx(1.0)


def test_comparing_separates_the_level_from_the_rest(tmp_path: Path, table: LatencyTable) -> None:
    odd = next(key for key in table.entries if key.startswith("v1/stem/"))
    entries = {key: replace(e, mean_ms=3 * e.mean_ms * (2 if key == odd else 1)) for key, e in table.entries.items()}
    overhead = replace(table.overhead, mean_ms=3 * table.overhead.mean_ms)
    other = replace(table, identity=replace(table.identity, target="other"), entries=entries, overhead=overhead)
    first, second = saved(table, tmp_path / "a.json"), saved(other, tmp_path / "b.json")
    found = compare_tables(first, second, picture=tmp_path / "c.png")
    assert found.differences == ("target is 'cpu' and 'other'",)
    assert found.level_ratio == pytest.approx(3.0, rel=0.1)
    assert 0.9 < found.spearman < 1.0
    assert found.layers[0].key == odd
    assert found.layers[0].ratio_at_level == pytest.approx(6.0 / found.level_ratio, rel=1e-5)
    assert found.num_layers_in_both == len(table.entries)
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    told = found.to_json()
    assert told["second"]["target"] == "other" and told["layers"][0]["key"] == odd and "picture" in told


def test_layers_of_another_precision_or_batch_are_the_same_layers(tmp_path: Path, table: LatencyTable) -> None:
    entries = {key.replace("/fp32/b1", "/int8/b4"): entry for key, entry in table.entries.items()}
    other = replace(table, identity=replace(table.identity, precision="int8", batch=4), entries=entries)
    found = compare_tables(saved(table, tmp_path / "a.json"), saved(other, tmp_path / "b.json"))
    assert found.num_layers_in_both == len(table.entries) and found.level_ratio == pytest.approx(1.0)
    assert found.differences == ("batch is 1 and 4", "precision is 'fp32' and 'int8'")


def test_what_one_table_lacks_is_named(tmp_path: Path, table: LatencyTable) -> None:
    lacking = next(key for key in table.entries if key.startswith("v1/head/"))
    entries = {key: entry for key, entry in table.entries.items() if key != lacking}
    other = {**entries, lacking.replace("/out10/", "/out99/"): table.entries[lacking]}
    first = saved(table, tmp_path / "a.json")
    found = compare_tables(first, saved(replace(table, entries=other), tmp_path / "b.json"))
    assert found.only_first == (lacking,) and found.only_second == (lacking.replace("/out10/", "/out99/"),)


def test_tables_of_different_spaces_are_not_compared(tmp_path: Path, table: LatencyTable) -> None:
    other = replace(table, identity=replace(table.identity, space="fbnet/v1/32x32x3"))
    with pytest.raises(RunFolderError, match="a.json is of mobile.v1.8x8x1, .*b.json of fbnet"):
        compare_tables(saved(table, tmp_path / "a.json"), saved(other, tmp_path / "b.json"))


# Joined.


def test_merging_joins_networks_and_weights_layers(tmp_path: Path, measured: LatencyTable, space: MobileSpace) -> None:
    """Entries of 0.1 +- 0.005 and 0.13 +- 0.01 make (4 x 0.1 + 0.13) / 5."""
    key, unknown, *_ = measured.entries
    entries = {
        **measured.entries,
        key: Entry(1.3 * measured.entries[key].mean_ms, 0.1 * measured.entries[key].mean_ms),
        unknown: Entry(9.0, 0.0, "inferred"),
    }
    other = replace(measured, entries=entries, observations=(measured.observations[0],))
    other = other.with_observations([observation(measured, space, 7)])
    first, second, out = (tmp_path / name for name in ("a.json", "b.json", "sub/merged.json"))
    made = merge_tables(saved(measured, first), saved(other, second), out=out)
    merged, before = load(out), load(first)
    assert made.path == out and made.num_networks == 4, "the network that both have counts once"
    assert merged.entries[key].mean_ms == pytest.approx(1.06 * before.entries[key].mean_ms, rel=1e-4)
    assert merged.entries[key].deviation_ms == pytest.approx(
        before.entries[key].mean_ms * (0.05**-2 + 0.1**-2) ** -0.5, rel=1e-4
    )
    assert merged.entries[unknown] == before.entries[unknown], "what was measured beats what was inferred"
    assert merged.conditions["merged"][0]["num_networks"] == 3  # type: ignore[index]
    assert merged.conditions["holdout"] is None and merged.origin == "measured"


def test_tables_of_a_slow_and_a_fast_hour_meet_half_way(tmp_path: Path, measured: LatencyTable) -> None:
    """The second session ran at half the speed, which its reference network shows."""
    slow = replace(
        measured,
        entries={key: Entry(2 * e.mean_ms, 2 * e.deviation_ms) for key, e in measured.entries.items()},
        observations=tuple(replace(o, measured_ms=2 * o.measured_ms) for o in measured.observations),
        conditions={**CONDITIONS, "reference_median_ms": 4.0, "date": "2026-02-02"},
    )
    first, second = saved(measured, tmp_path / "a.json"), saved(slow, tmp_path / "b.json")
    merge_tables(first, second, out=tmp_path / "m.json")
    merged = load(tmp_path / "m.json")
    assert merged.conditions["reference_median_ms"] == pytest.approx(8**0.5, rel=1e-5)
    assert merged.conditions["date"] == "2026-02-02"
    key = next(iter(measured.entries))
    assert merged.entries[key].mean_ms == pytest.approx(2**0.5 * measured.entries[key].mean_ms, rel=1e-4)
    assert len({f"{o.measured_ms:.4g}" for o in merged.observations}) == 3


@pytest.mark.parametrize(
    ("identity", "conditions", "message"),
    [
        ({"num_threads": 2}, {}, "num_threads is 1 and 2"),
        ({"runtime": "tvm"}, {}, "runtime is 'onnxruntime' and 'tvm'"),
        ({}, {"runtime_version": "1.1"}, "runtime_version is '1.0' and '1.1'"),
        ({"target": "x"}, {"fingerprint": "b"}, "target is 'cpu' and 'x'; fingerprint is"),
    ],
)
def test_tables_of_different_kinds_are_not_merged(
    tmp_path: Path, measured: LatencyTable, identity: dict, conditions: dict, message: str
) -> None:
    other = replace(measured, identity=replace(measured.identity, **identity), conditions={**CONDITIONS, **conditions})
    first, second = saved(measured, tmp_path / "a.json"), saved(other, tmp_path / "b.json")
    with pytest.raises(RunFolderError, match=message):
        merge_tables(first, second, out=tmp_path / "m.json")
    assert not (tmp_path / "m.json").exists()


def test_merging_over_a_file_keeps_it(tmp_path: Path, measured: LatencyTable) -> None:
    first, out = saved(measured, tmp_path / "a.json"), tmp_path / "m.json"
    out.write_text("{", encoding="utf-8")
    with pytest.raises(RunFolderError, match="damaged at line 1, column 2"):
        merge_tables(first, first, out=out)
    assert out.read_text(encoding="utf-8") == "{"
    saved(replace(measured, identity=replace(measured.identity, target="else")), out)
    merge_tables(first, first, out=out)
    assert load(out).target == "cpu" and load(tmp_path / "m.json.old").target == "else"
