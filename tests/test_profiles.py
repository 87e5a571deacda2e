"""Latency tables that ship: every file loads, says where it is from, and is used only where that is true."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwautoml.core.form import Form
from hwautoml.core.latency_file import dumps, load
from hwautoml.core.resources import package_folder, target_folders
from hwautoml.core.target import load_target
from hwautoml.devices import machine
from hwautoml.pipeline import estimate_table
from hwautoml.pipeline.tables.finding import find_table, identity_of
from hwautoml.schedules import SCHEDULES_VERSION
from hwautoml.schedules.records import Records
from hwautoml.spaces import load_family
from hwautoml.store.table_library import RECORDS_FILE, TableLibrary

ALL_FILES = sorted(package_folder("profiles").glob("*/*.json"))
FILES = [path for path in ALL_FILES if path.name != RECORDS_FILE]
MAX_BYTES = 300_000


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_shipped_table_is_whole_and_in_its_place(path: Path) -> None:
    table, space = load(path), load_family(load(path).space)
    assert path == TableLibrary(package_folder("profiles")).table_path(table.identity), "its name is its identity"
    assert table.missing(space.all_layers()) == ()
    assert table.origin == "measured" and len(table.observations) >= 12
    assert path.stat().st_size <= MAX_BYTES
    assert dumps(table) == path.read_text(encoding="utf-8"), "as it was written"
    for name in ("cpu", "date", "runtime_version", "fingerprint", "noise_floor_relative", "load_average", "os"):
        assert table.conditions[name], name
    assert table.conditions["holdout"]["num_networks"] >= 3  # type: ignore[index]
    assert table.predict(space.layers(space.smallest())).mean_ms > 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_shipped_table_is_used_on_its_machine_only(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its version of the runtime must be installed too, so that is what this machine is said to have."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    table, space = load(path), load_family(load(path).space)
    target = load_target(table.target, target_folders())
    identity = identity_of(target, Form(table.runtime, table.precision), space, table.batch)
    installed = (table.runtime_version or "").partition("+schedules")[0].partition("+functions")[0]
    monkeypatch.setattr(f"hwautoml.compilers.{table.runtime}.version", lambda: installed)
    monkeypatch.setattr("hwautoml.pipeline.tables.finding.fingerprint", lambda *_: table.conditions["fingerprint"])
    assert find_table(target, identity, TableLibrary()) == table
    monkeypatch.setattr("hwautoml.pipeline.tables.finding.fingerprint", machine.fingerprint)
    monkeypatch.setattr(machine, "cpu_model", lambda: "Another CPU")
    assert find_table(target, identity, TableLibrary()) is None


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_elsewhere_a_shipped_table_is_a_sibling(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    identity = load(path).identity
    made = estimate_table(
        "rpi4",
        like=[identity.target],
        runtime="tvm",
        precision=identity.precision,
        profiles_dir=tmp_path / "p",
    )
    assert made.origin == "estimated" and made.num_networks == 0
    assert made.conditions["siblings"][0]["target"] == identity.target


def test_tables_ship_for_this_kind_of_machine() -> None:
    kinds = {f"{load(path).runtime} {load(path).precision}" for path in FILES if path.parent.name == "cpu"}
    assert kinds >= {"onnxruntime fp32", "onnxruntime int8", "torch fp32", "tvm fp32", "tvm int8"}


@pytest.mark.parametrize("path", sorted({*ALL_FILES} - {*FILES}), ids=str)
def test_shipped_records_are_whole_and_of_the_code_as_it_is(path: Path) -> None:
    """Records of earlier schedules would be passed over."""
    records = Records.load(path)
    for device, entries in records.by_target.items():
        assert " on " in device and "mcpu" in device
        assert entries and all(record.num_tried >= 1 for record in entries.values())
    told = json.loads(path.read_text(encoding="utf-8"))["records"]
    assert {entry["schedules"] for entries in told.values() for entry in entries.values()} == {SCHEDULES_VERSION}
