from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwautoml.core.form import Form
from hwautoml.core.latency_file import dumps, load, save
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.observation import Entry
from hwautoml.core.resources import target_folders
from hwautoml.core.target import Target, load_target
from hwautoml.errors import MissingDependencyError, TargetUnavailableError, UnknownNameError
from hwautoml.pipeline import profile
from hwautoml.pipeline.connecting import unavailable_reason
from hwautoml.pipeline.runs.context import RunContext
from hwautoml.pipeline.stages.profiling import kept_table_path, profile_stage, sibling_table
from hwautoml.pipeline.tables.finding import (
    choose_runtime,
    ensure_table,
    find_table,
    identity_of,
    usable_runtimes,
)
from hwautoml.spaces.mobile import MobileSpace
from hwautoml.store.table_library import TableLibrary
from tests.pipeline.shared_tables import ORT, path_of


@pytest.fixture(autouse=True)
def no_tables_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_a_valid_table_is_found_and_used(cpu: Target, space: MobileSpace, profiles_dir: Path) -> None:
    found = ensure_table(cpu, ORT, space, TableLibrary(profiles_dir), budget_sec=0.0)
    assert found == load(path_of(cpu, space, profiles_dir))


def test_a_table_serves_any_number_of_classes(cpu: Target, profiles_dir: Path) -> None:
    assert find_table(cpu, identity_of(cpu, ORT, MobileSpace(8, 1, 77)), TableLibrary(profiles_dir)) is not None


@pytest.mark.parametrize(
    ("conditions", "reason"),
    [
        ({"fingerprint": "another-machine"}, "it was measured on another machine"),
        ({"runtime_version": "0.0.1"}, "runtime_version is '0.0.1', needed"),
        (
            {"num_threads": 2},
            "num_threads is 2, needed 1\n  fix: hwautoml profile --target cpu --space mobile --image",
        ),
        ({"batch": 4}, "batch is 4, needed 1"),
        ({"precision": "int8"}, "precision is 'int8', needed 'fp32'"),
        ({"space": "mobile/v1/9x9x1"}, "space is 'mobile/v1/9x9x1', needed 'mobile/v1/8x8x1'"),
        ({"schema": "latency-table/v0"}, "has schema 'latency-table/v0', this version reads"),
    ],
)
def test_a_table_of_other_conditions_is_passed_over_and_named(
    cpu: Target,
    space: MobileSpace,
    table: LatencyTable,
    profiles_dir: Path,
    conditions: dict,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = path_of(cpu, space, profiles_dir)
    data = json.loads(dumps(table))
    named = conditions if conditions.keys() <= data.keys() else {"conditions": {**table.conditions, **conditions}}
    path.write_text(json.dumps({**data, **named}), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert find_table(cpu, identity_of(cpu, ORT, space), TableLibrary(profiles_dir)) is None
    assert f"{path} is not used" in caplog.text and reason in caplog.text


def test_a_board_out_of_reach_gets_estimated_latencies(space: MobileSpace, caplog: pytest.LogCaptureFixture) -> None:
    rpi4 = load_target("rpi4", target_folders())
    with caplog.at_level(logging.WARNING):
        found = ensure_table(rpi4, Form(choose_runtime(rpi4, "auto")), space, TableLibrary(), budget_sec=0.0)
    assert found.origin == "estimated" and "estimated from the datasheet" in caplog.text
    fast, slow = (found.predict(space.layers(a)).mean_ms for a in (space.smallest(), space.largest()))
    assert 0 < fast < slow


def test_profiling_a_board_out_of_reach_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetUnavailableError, match="rpi4 is reached over the network"):
        profile("rpi4", profiles_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_runtimes_are_chosen_in_the_targets_order(cpu: Target) -> None:
    assert "onnxruntime" in usable_runtimes(cpu)
    assert choose_runtime(cpu, "auto") == usable_runtimes(cpu)[0]
    assert choose_runtime(cpu, "onnxruntime") == "onnxruntime"
    only = replace(cpu, runtimes=("no such thing", "onnxruntime"))
    assert usable_runtimes(only) == ("onnxruntime",)
    with pytest.raises(UnknownNameError, match="'onnxruntimes'"):
        choose_runtime(cpu, "onnxruntimes")
    with pytest.raises(MissingDependencyError, match="none of cpu's runtimes"):
        choose_runtime(replace(cpu, runtimes=("tensorrt",)), "auto")


def test_this_machine_is_available_and_boards_are_not(cpu: Target) -> None:
    assert unavailable_reason(cpu) is None
    assert "network" in (unavailable_reason(load_target("jetson-orin-nano", target_folders())) or "")


def test_a_runs_table_is_kept_in_its_folder_and_read_from_there(
    make_run: Callable[..., RunContext], profiles_dir: Path
) -> None:
    run = replace(make_run(runtime="onnxruntime"), profiles_dir=profiles_dir)
    path = path_of(run.target, run.space, profiles_dir)
    known = load(path)
    assert profile_stage(run, 1.0) == {"onnxruntime": known}
    assert load(kept_table_path(run, "onnxruntime")) == known
    path.unlink()
    assert profile_stage(run, 1.0) == {"onnxruntime": known}


@pytest.mark.slow
def test_a_further_runtime_starts_from_the_first_ones_table(
    make_run: Callable[..., RunContext], table: LatencyTable
) -> None:
    """Torch, whose calls cost far more than ONNX Runtime's: the level is found from eight networks."""
    run = make_run()
    entries = {key: Entry(e.mean_ms, 0.05 * e.mean_ms) for key, e in table.entries.items()}
    made = sibling_table(run, replace(table, entries=entries), Form("torch"))
    assert (made.target, made.runtime, made.space) == ("cpu", "torch", table.space)
    assert made.origin == "measured" and len(made.observations) == 8
    assert made.conditions["sibling"] == "onnxruntime" and made.conditions["level"] > 1  # type: ignore[operator]
    layers = {a.id: run.space.layers(a) for a in (run.space.sample(np.random.default_rng(i)) for i in range(64))}
    for observation in made.observations:
        predicted = made.predict(layers[observation.architecture_id])
        assert abs(predicted.mean_ms - observation.measured_ms) < 3 * predicted.std_ms


@pytest.mark.slow
def test_forms_are_compared_at_the_speed_of_the_first_ones_table(
    make_run: Callable[..., RunContext], table: LatencyTable
) -> None:
    """Made when the machine took a second for its reference network: what takes less than 10 ms now took as long."""
    known = replace(table, conditions={**table.conditions, "reference_median_ms": 1000.0})
    made = sibling_table(make_run(), known, Form("onnxruntime", "int8"))
    assert made.form == "onnxruntime-int8" and made.conditions["sibling"] == "onnxruntime"
    assert all(o.measured_ms > 100 for o in made.observations) and made.conditions["reference_median_ms"] > 100  # type: ignore[operator]


def test_tables_of_a_run_are_by_form_and_of_int8_alone_where_that_must_ship(
    make_run: Callable[..., RunContext], cpu: Target, table: LatencyTable, profiles_dir: Path
) -> None:
    """The user's table of int8 is found, whatever the time."""
    entries = {key.replace("/fp32/", "/int8/"): entry for key, entry in table.entries.items()}
    int8 = replace(table, identity=replace(table.identity, precision="int8"), entries=entries)
    save(int8, TableLibrary(profiles_dir).table_path(int8.identity))
    forms = {}
    for precision in ("auto", "fp32", "int8"):
        run = replace(make_run(precision, runtime="onnxruntime", precision=precision), profiles_dir=profiles_dir)
        measured = replace(table, entries={k: replace(e, origin="measured") for k, e in table.entries.items()})
        save(measured, path_of(run.target, run.space, profiles_dir))
        forms[precision] = list(profile_stage(run, 1.0))
    assert forms == {
        "auto": ["onnxruntime", "onnxruntime-int8"],
        "fp32": ["onnxruntime"],
        "int8": ["onnxruntime-int8"],
    }
