from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from hwautoml.core.latency_file import load
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.layer import Layer
from hwautoml.core.measurement import Measurement
from hwautoml.core.sibling_prior import sibling_prior_table
from hwautoml.devices.local import LocalDevice
from hwautoml.devices.protocol import MeasureFailure
from hwautoml.errors import CompileError, InvalidValueError, MeasurementError, RunFolderError
from hwautoml.profilers.assembly import assemble_table
from hwautoml.profilers.journal import Journal, exclusive_lock
from hwautoml.profilers.layer_profiler import coverage_order
from hwautoml.profilers.profile_options import ProfileOptions

PROGRAM = Path(__file__).with_name("tiny_profile.py")


def journal_lines(table_path: Path) -> list[dict[str, object]]:
    path = table_path.with_suffix(".journal.jsonl")
    content = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [json.loads(line) for line in content.splitlines(keepends=True) if line.endswith("\n")]


def names(lines: list[dict[str, object]]) -> Counter[tuple[object, object]]:
    return Counter((line["record"], line.get("key", line.get("architecture_id"))) for line in lines)


def test_a_profile_has_everything_and_a_second_run_repeats_nothing(
    tmp_path: Path, device: LocalDevice, tiny: ModuleType
) -> None:
    path = tmp_path / "t.json"
    progress: list[tuple[int, int, str]] = []
    table = tiny.profile(path, device, on_progress=lambda *report: progress.append(report))
    layers = tiny.TinySpace().all_layers()
    assert {layer.key for layer in layers} == set(table.entries)
    assert {entry.origin for entry in table.entries.values()} == {"measured"}
    assert table.origin == "measured"
    assert len(table.observations) == 6
    assert table.overhead.origin == "measured"
    assert load(path).entries.keys() == table.entries.keys()
    assert progress[-1][0] == progress[-1][1] == len(layers) + 6
    conditions = table.conditions
    assert conditions["holdout"]["num_networks"] == 2  # type: ignore[index]
    assert conditions["num_layers_measured"] == len(layers)
    for name in ("cpu", "runtime_version", "noise_floor_relative", "date", "affinity", "reference_median_ms"):
        assert conditions[name] is not None, name
    before = journal_lines(path)
    for line in before[1:]:
        assert len(line["samples_ms"]) >= tiny.PROTOCOL.min_rounds  # type: ignore[arg-type]
        assert line["conditions"]["noise_floor_relative"] >= 0  # type: ignore[index]
    holdouts = [line["is_holdout"] for line in before if line["record"] == "network"]
    assert holdouts == [False] * 4 + [True] * 2
    assert tiny.profile(path, device).entries == table.entries
    assert journal_lines(path) == before


def test_a_larger_wish_adds_to_what_is_there(tmp_path: Path, device: LocalDevice, tiny: ModuleType) -> None:
    path = tmp_path / "t.json"
    small = replace(tiny.OPTIONS, layer_budget_sec=1e-6, network_budget_sec=1e-6)
    first = tiny.profile(path, device, small)
    origins = Counter(entry.origin for entry in first.entries.values())
    assert origins["measured"] == 1  # building went on until the budget was over: after the first
    assert origins["inferred"] == len(first.entries) - 1
    second = tiny.profile(path, device, replace(tiny.OPTIONS, num_networks=8))
    assert Counter(entry.origin for entry in second.entries.values()) == {"measured": len(second.entries)}
    assert len(second.observations) == 8
    assert max(names(journal_lines(path)).values()) == 1


def test_sigkill_loses_nothing_and_resume_repeats_nothing(tmp_path: Path, tiny: ModuleType) -> None:
    path = tmp_path / "t.json"
    command = [sys.executable, str(PROGRAM), str(path)]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 60
    while len(journal_lines(path)) < 10 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    interrupted = journal_lines(path)
    assert len(interrupted) >= 10
    assert not path.exists()
    subprocess.run(command, check=True, timeout=100)
    lines = journal_lines(path)
    assert lines[: len(interrupted)] == interrupted
    assert max(names(lines).values()) == 1
    expected = 1 + 1 + len(tiny.TinySpace().all_layers()) + tiny.OPTIONS.num_networks  # header, overhead
    assert len(lines) == expected
    assert load(path).missing(tiny.TinySpace().all_layers()) == ()


def test_what_networks_leave_of_their_budget_goes_to_layers(
    tmp_path: Path, device: LocalDevice, tiny: ModuleType
) -> None:
    path = tmp_path / "t.json"
    table = tiny.profile(path, device, replace(tiny.OPTIONS, layer_budget_sec=1e-6, network_budget_sec=1000.0))
    assert {entry.origin for entry in table.entries.values()} == {"measured"}
    records = [line["record"] for line in journal_lines(path)]
    assert records[:4] == ["header", "overhead", "layer", "network"]
    assert records[-1] == "layer"


def test_building_stops_with_the_budget(tmp_path: Path, device: LocalDevice, tiny: ModuleType) -> None:
    budget_sec = 0.8
    built = []

    def build(layer: Layer, path: Path) -> Path:
        built.append(layer)
        time.sleep(budget_sec / 4)
        return tiny.write_chain((layer,), path)

    tiny.profile(
        tmp_path / "t.json",
        device,
        replace(tiny.OPTIONS, layer_budget_sec=budget_sec, network_budget_sec=1e-6),
        builders=replace(tiny.builders(tiny.TinySpace()), layer=build),
    )
    assert 1 <= len(built) <= 5
    assert sum(line["record"] == "layer" for line in journal_lines(tmp_path / "t.json")) == len(built)


def test_as_many_are_built_at_once_as_the_builders_allow(tmp_path: Path, device: LocalDevice, tiny: ModuleType) -> None:
    both_are_building = threading.Barrier(2)

    def build(layer: Layer, path: Path) -> Path:
        both_are_building.wait(timeout=60)
        return tiny.write_chain((layer,), path)

    builders = replace(tiny.builders(tiny.TinySpace()), layer=build, num_parallel=2)
    table = tiny.profile(tmp_path / "t.json", device, builders=builders)
    assert {entry.origin for entry in table.entries.values()} == {"measured"}
    keys = [line["key"] for line in journal_lines(tmp_path / "t.json") if line["record"] == "layer"]
    assert keys == coverage_order({layer.key: layer for layer in tiny.TinySpace().all_layers()}, tiny.OPTIONS.seed)


# What a file is called decides what happens to the worker that opens it.
WORKER = """
import os, re
import hwautoml.compilers.onnxruntime as backend
from hwautoml.devices import worker
original = backend.open_model
def open_model(path, **options):
    if path.stem == "crash":
        os.abort()
    if path.stem == "hang":
        re.match("(a+)+$", 99 * "a" + "b")  # years in native code
    return original(path, **options)
backend.open_model = open_model
worker.main()
"""


def test_layers_that_crash_or_hang_the_worker_are_recorded_and_skipped(tmp_path: Path, tiny: ModuleType) -> None:
    path, space = tmp_path / "t.json", tiny.TinySpace()
    stems = {space.all_layers()[3]: "crash", space.all_layers()[20]: "hang"}

    def build(layer: Layer, target: Path) -> Path:
        return tiny.write_chain((layer,), target.with_name(stems.get(layer, target.name)))

    with LocalDevice("onnxruntime", command=[sys.executable, "-c", WORKER]) as device:
        arguments = {
            "builders": replace(tiny.builders(space), layer=build),
            "measure": partial(device.measure, protocol=replace(tiny.PROTOCOL, timeout_sec=2.0)),
        }
        table = tiny.profile(path, device, **arguments)
        lines = journal_lines(path)
        assert tiny.profile(path, device, **arguments).entries == table.entries
    assert journal_lines(path) == lines
    failures = {line["key"]: line["failure"] for line in lines if "failure" in line}
    assert failures.keys() == {layer.key for layer in stems}
    crashed, hung = (str(failures[layer.key]) for layer in stems)
    assert "SIGABRT" in crashed and "no answer within 2 s" in hung
    assert {table.entries[layer.key].origin for layer in stems} == {"inferred"}
    assert table.conditions["num_failed"] == 2


def test_two_processes_cannot_share_a_table(tmp_path: Path, device: LocalDevice, tiny: ModuleType) -> None:
    path = tmp_path / "t.json"
    with exclusive_lock(path.with_suffix(".lock")), pytest.raises(RunFolderError, match="process [0-9]+ is profiling"):
        tiny.profile(path, device)


def test_layers_that_fail_are_inferred_and_counted(tmp_path: Path, device: LocalDevice, tiny: ModuleType) -> None:
    space = tiny.TinySpace()
    unbuildable, unloadable = space.all_layers()[3], space.all_layers()[20]

    def build(layer: object, path: Path) -> Path:
        if layer == unbuildable:
            raise CompileError("no schedule")
        if layer == unloadable:
            path.write_bytes(b"not a model")
            return path
        return tiny.write_chain((layer,), path)

    table = tiny.profile(tmp_path / "t.json", device, builders=replace(tiny.builders(space), layer=build))
    assert table.entries[unbuildable.key].origin == table.entries[unloadable.key].origin == "inferred"
    assert table.conditions["num_failed"] == 2
    assert table.missing(space.all_layers()) == ()


def test_when_nothing_can_be_measured_it_says_why(tmp_path: Path, device: LocalDevice, tiny: ModuleType) -> None:
    def build(layer: object, path: Path) -> Path:
        raise CompileError("no such compiler")

    with pytest.raises(MeasurementError, match="no such compiler"):
        tiny.profile(tmp_path / "t.json", device, builders=replace(tiny.builders(tiny.TinySpace()), layer=build))
    assert not (tmp_path / "t.json").exists()
    # Once the set-up is repaired, nothing that failed because of it is held against a layer.
    table = tiny.profile(tmp_path / "t.json", device, replace(tiny.OPTIONS, num_networks=2))
    assert Counter(entry.origin for entry in table.entries.values()) == {"measured": len(table.entries)}


def test_a_noisy_run_is_not_written(tmp_path: Path, device: LocalDevice, tiny: ModuleType) -> None:
    def measure(paths: Sequence[Path], reference: Path | None = None) -> list[Measurement | MeasureFailure]:
        return [Measurement((1.0, 9.0, 2.0, 8.0, 3.0, 7.0, 4.0), {"reference_median_ms": 1.0}) for _ in paths]

    options = ProfileOptions(num_networks=2, num_holdout=0)
    with pytest.raises(MeasurementError, match="quieter machine"):
        tiny.profile(tmp_path / "t.json", device, options, measure=measure)
    assert not (tmp_path / "t.json").exists()
    table = tiny.profile(tmp_path / "t.json", device, replace(tiny.OPTIONS, num_networks=2, max_relative_deviation=0.4))
    assert table.conditions["num_layers_measured"] > 0  # type: ignore[operator]


def test_where_every_run_reads_the_weights_a_table_knows_how_many(
    tmp_path: Path, device: LocalDevice, tiny: ModuleType
) -> None:
    space, setting = tiny.TinySpace(), tiny.setting(device.runtime_version)
    packing = tiny.profile(tmp_path / "t.json", device, replace(tiny.OPTIONS, num_networks=0, num_holdout=0))
    assert {entry.num_weights for entry in packing.entries.values()} == {0}
    costs = {setting.identity.key(layer): space.cost(layer) for layer in space.all_layers()}
    journal = Journal(tmp_path / "t.journal.jsonl", setting.to_json())
    table = assemble_table(setting, journal, costs, 5.0, reads_weights=True)
    assert {key: entry.num_weights for key, entry in table.entries.items()} == {
        key: cost.parameters for key, cost in costs.items()
    }


def test_one_network_that_fails_does_not_end_the_others(tmp_path: Path, device: LocalDevice, tiny: ModuleType) -> None:
    """Nine are wanted: eight in one call, the last alone. It fails, and another takes its place."""
    alone: list[str] = []

    def measure(paths: Sequence[Path], reference: Path | None = None) -> Sequence[Measurement | MeasureFailure]:
        if len(paths) > 1 or alone:
            return device.measure(paths, reference, protocol=tiny.PROTOCOL)
        alone.extend(path.name for path in paths)
        return [MeasureFailure(path, "a neighbour") for path in paths]

    options = replace(tiny.OPTIONS, num_networks=11, num_holdout=2)
    table = tiny.profile(tmp_path / "t.json", device, options, measure_networks=measure)
    assert len(alone) == 1
    assert len(table.observations) == 11 and table.conditions["num_failed"] == 1


def test_order_covers_every_group_early(tiny: ModuleType) -> None:
    layers = {layer.key: layer for layer in tiny.TinySpace().all_layers()}
    order = coverage_order(layers, seed=0)
    assert sorted(order) == sorted(layers)
    assert {layers[key].height for key in order[:2]} == {8, 12}
    assert coverage_order(layers, seed=0) == order != coverage_order(layers, seed=1)


def test_options_are_validated() -> None:
    with pytest.raises(InvalidValueError, match="num_holdout <= num_networks"):
        ProfileOptions(num_networks=2)
    with pytest.raises(InvalidValueError, match="layer_budget_sec"):
        ProfileOptions(layer_budget_sec=0)


def sibling_of(table: LatencyTable, factor: float, tiny: ModuleType) -> LatencyTable:
    """What a sibling device's table gives as a prior for this one, at another level."""
    entries = {key: replace(e, mean_ms=factor * e.mean_ms) for key, e in table.entries.items()}
    other = replace(table.identity, target="other")
    sibling = replace(table, identity=other, entries=entries, observations=(), hyperparameters=None)
    return sibling_prior_table([sibling], table.identity, cost=tiny.TinySpace().cost)


def test_with_a_prior_only_networks_are_measured_and_none_twice(
    tmp_path: Path, device: LocalDevice, tiny: ModuleType
) -> None:
    full = tiny.profile(tmp_path / "full.json", device)
    prior, path = sibling_of(full, 10.0, tiny), tmp_path / "t.json"
    options = replace(tiny.OPTIONS, num_networks=3, num_holdout=0)
    first = tiny.profile(path, device, options, prior=prior)
    assert [line["record"] for line in journal_lines(path)] == ["header", "network", "network", "network"]
    assert len(first.observations) == 3 and first.origin == "measured"
    assert {entry.origin for entry in first.entries.values()} == {"inferred"}
    assert first.conditions["num_layers_measured"] == 0
    assert first.conditions["holdout"]["method"] == "leave one out"  # type: ignore[index]
    assert first.conditions["holdout"]["num_networks"] == 3  # type: ignore[index]
    assert 0.05 < first.conditions["level"] < 0.2, "the sibling is ten times slower"  # type: ignore[operator]
    more = tiny.profile(path, device, replace(options, num_networks=5), prior=prior)
    assert len(more.observations) == 5
    assert max(names(journal_lines(path)).values()) == 1
    before = journal_lines(path)
    assert tiny.profile(path, device, replace(options, num_networks=5), prior=prior).observations == more.observations
    assert journal_lines(path) == before


def test_with_a_prior_a_device_that_measures_nothing_is_an_error(
    tmp_path: Path, device: LocalDevice, tiny: ModuleType
) -> None:
    prior = sibling_of(tiny.profile(tmp_path / "full.json", device), 1.0, tiny)

    def build(architecture: object, path: Path) -> Path:
        if path.name == "reference":
            return tiny.write_chain((), path)
        raise CompileError("no such operator")

    broken = replace(tiny.builders(tiny.TinySpace()), network=build)
    with pytest.raises(MeasurementError, match="none of 2 networks could be measured: no such operator"):
        options = replace(tiny.OPTIONS, num_networks=2, num_holdout=0)
        tiny.profile(tmp_path / "t.json", device, options, prior=prior, builders=broken)
    assert not (tmp_path / "t.json").exists()
