"""The verb ``profile``: real measurements of a tiny space, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from hwautoml.core.latency_file import load, save
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.progress import Progress
from hwautoml.core.target import Target
from hwautoml.errors import InvalidValueError, RunFolderError, TargetUnavailableError
from hwautoml.pipeline import estimate_table, profile
from hwautoml.pipeline.tables.finding import ensure_table, find_table, identity_of
from hwautoml.spaces.mobile import MobileSpace
from hwautoml.store.table_library import TableLibrary, few_shot_path
from tests.pipeline.shared_tables import ORT, SMALL, as_measured, path_of

COMMAND = [
    sys.executable,
    "-m",
    "hwautoml.cli",
    "profile",
    "--image-size",
    "8",
    "--channels",
    "grey",
    "--runtime",
    "onnxruntime",
    "--json",
]


@pytest.fixture(autouse=True)
def no_tables_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def journal_of(path: Path) -> list[dict[str, object]]:
    journal = path.with_suffix(".journal.jsonl")
    content = journal.read_text(encoding="utf-8") if journal.is_file() else ""
    return [json.loads(line) for line in content.splitlines(keepends=True) if line.endswith("\n")]


def names(lines: list[dict[str, object]]) -> Counter[tuple[object, object]]:
    return Counter((line["record"], line.get("key", line.get("architecture_id"))) for line in lines)


# From siblings.


def test_few_shot_measures_networks_and_leaves_the_full_table_alone(
    tmp_path: Path, cpu: Target, space: MobileSpace, sibling: Path
) -> None:
    folder, events = tmp_path / "boards", list[Progress]()
    made = profile("cpu", like=["oldboard"], measurements=3, profiles_dir=folder, on_progress=events.append, **SMALL)
    path = few_shot_path(path_of(cpu, space, folder))
    assert made.path == path and made.origin == "measured"
    assert (made.num_measured, made.num_networks) == (0, 3)
    assert made.holdout["method"] == "leave one out"
    assert made.conditions["siblings"][0]["target"] == "oldboard"
    assert events[-1] == Progress("profile", 1.0)
    assert not path_of(cpu, space, folder).exists()
    # It is the table of this target until there is a better one.
    assert ensure_table(cpu, ORT, space, TableLibrary(folder), budget_sec=1000.0) == load(path)
    full = path_of(cpu, space, folder)
    save(as_measured(load(path), observations=()), full)
    assert find_table(cpu, identity_of(cpu, ORT, space), TableLibrary(folder)) == load(full) != load(path)
    # A sibling by file, more networks: nothing is measured twice.
    again = profile("cpu", like=[sibling], measurements=4, profiles_dir=folder, **SMALL)
    assert again.num_networks == 4
    assert max(names(journal_of(path)).values()) == 1


def test_without_siblings_the_datasheet_is_the_prior(tmp_path: Path) -> None:
    made = profile("cpu", measurements=1, profiles_dir=tmp_path, **SMALL)
    assert made.num_estimated == 320 and made.origin == "measured"


def test_a_sibling_that_shares_more_is_preferred(
    tmp_path: Path, sibling: Path, table: LatencyTable, caplog: pytest.LogCaptureFixture
) -> None:
    other = sibling.with_name("tvm.json")
    save(as_measured(table, target="oldboard", runtime="tvm", num_threads=4), other)
    used = estimate_table("cpu", like=["oldboard"], profiles_dir=tmp_path / "boards", **SMALL)
    assert used.conditions["siblings"][0]["runtime"] == "onnxruntime" and caplog.text == ""
    sibling.unlink()
    used.path.unlink()
    used = estimate_table("cpu", like=["oldboard"], profiles_dir=tmp_path / "boards", **SMALL)
    assert used.conditions["siblings"][0]["runtime"] == "tvm"
    assert "less alike than it could be: runtime is 'tvm', needed 'onnxruntime'" in caplog.text


def test_siblings_that_cannot_serve_are_refused(tmp_path: Path, sibling: Path) -> None:
    folder = tmp_path / "boards"
    with pytest.raises(RunFolderError, match="'rpi9' has no measured table .* that have one: oldboard\n  fix: h"):
        profile("cpu", like=["rpi9"], profiles_dir=folder, **SMALL)
    with pytest.raises(RunFolderError, match="space is 'mobile/v1/8x8x1', needed 'mobile/v1/8x8x3'"):
        profile("cpu", like=[sibling], image_size=8, runtime="onnxruntime", profiles_dir=folder)
    with pytest.raises(RunFolderError, match="no latency table"):
        profile("cpu", like=[tmp_path / "none.json"], profiles_dir=folder, **SMALL)
    sibling.write_text(sibling.read_text(encoding="utf-8")[:500], encoding="utf-8")
    with pytest.raises(RunFolderError, match="is damaged at line [0-9]+, column [0-9]+"):
        profile("cpu", like=[sibling], profiles_dir=folder, **SMALL)


def test_a_board_without_an_address_is_measured_by_hand_or_not_at_all(tmp_path: Path, sibling: Path) -> None:
    options = {**SMALL, "like": [sibling], "profiles_dir": tmp_path}
    with pytest.raises(TargetUnavailableError, match="hwautoml tables export DIR --target rpi4"):
        profile("rpi4", measurements=2, **options)
    assert estimate_table("rpi4", **options).origin == "estimated"


# Files that must not be lost.


def test_a_damaged_table_is_reported_with_its_place_and_never_overwritten(
    tmp_path: Path, cpu: Target, space: MobileSpace, profiles_dir: Path
) -> None:
    path = path_of(cpu, space, profiles_dir)
    path.write_text(path.read_text(encoding="utf-8").replace('"overhead"', '"overhead'), encoding="utf-8")
    before = path.read_bytes()
    message = f"{path} is damaged at line [0-9]+, column [0-9]+.*\n  fix: move"
    with pytest.raises(RunFolderError, match=message):
        profile("cpu", budget_sec=1.0, profiles_dir=profiles_dir, **SMALL)
    with pytest.raises(RunFolderError, match=message):
        ensure_table(cpu, ORT, space, TableLibrary(profiles_dir), budget_sec=1.0)
    with pytest.raises(RunFolderError, match=message):
        estimate_table("cpu", out=path, **SMALL)
    with pytest.raises(RunFolderError, match=message):
        profile("cpu", measurements=1, out=path, **SMALL)
    assert path.read_bytes() == before


def test_a_measured_table_is_not_replaced_by_less(tmp_path: Path, table: LatencyTable) -> None:
    path = tmp_path / "measured.json"
    save(as_measured(table), path)
    before = path.read_bytes()
    for make in (estimate_table, partial(profile, measurements=1)):
        with pytest.raises(RunFolderError, match="holds measured layers .*\n  fix: --out FILE"):
            make("cpu", out=path, **SMALL)
    assert path.read_bytes() == before


def test_networks_that_do_not_fit_into_the_budget_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = profile("cpu", measurements=12, budget_sec=0.05, profiles_dir=tmp_path, **SMALL)
    assert 1 <= made.num_networks < 12
    assert f"{made.num_networks} of 12 networks were measured; the same command with a larger" in caplog.text


def test_a_table_of_other_conditions_is_kept_when_a_new_one_is_made(
    tmp_path: Path, cpu: Target, space: MobileSpace, table: LatencyTable
) -> None:
    path = path_of(cpu, space, tmp_path)
    save(as_measured(table, conditions={"runtime_version": "0.1", "fingerprint": "x"}), path)
    before = path.read_bytes()
    profile("cpu", budget_sec=0.5, profiles_dir=tmp_path, **SMALL)
    assert path.with_name(path.name + ".old").read_bytes() == before
    assert load(path).runtime_version != "0.1"


@pytest.mark.parametrize("measurements", [0, -1])
def test_to_measure_no_network_is_refused(measurements: int) -> None:
    with pytest.raises(InvalidValueError, match=f"got {measurements}\n  fix: hwautoml tables estimate"):
        profile("cpu", measurements=measurements)


# Processes.


@pytest.mark.slow
def test_of_two_processes_one_makes_the_table_and_the_other_says_why_not(
    tmp_path: Path, cpu: Target, space: MobileSpace
) -> None:
    command = [*COMMAND, "--budget", "12s", "--profiles-dir", str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ended = sorted(
        [(process.pid, *process.communicate(timeout=200), process.returncode) for process in both],
        key=lambda end: end[3],
    )
    (winner, stdout, stderr, code), (_, empty, refusal, refused) = ended
    assert (code, refused) == (0, RunFolderError.exit_code), stderr + refusal
    assert empty == "" and f"process {winner} is profiling into the same table" in " ".join(refusal.split())
    path = path_of(cpu, space, tmp_path)
    assert json.loads(stdout)["path"] == str(path) and load(path).origin == "measured"
    assert max(names(journal_of(path)).values()) == 1


@pytest.mark.slow
def test_sigkill_loses_nothing_and_the_same_command_repeats_nothing(
    tmp_path: Path, cpu: Target, space: MobileSpace
) -> None:
    path = path_of(cpu, space, tmp_path)
    command = [*COMMAND, "--budget", "20s", "--profiles-dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(journal_of(path)) < 25 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    interrupted = journal_of(path)
    assert len(interrupted) >= 25 and not path.exists()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = journal_of(path)
    assert lines[: len(interrupted)] == interrupted and len(lines) > len(interrupted)
    assert max(names(lines).values()) == 1
    assert json.loads(done.stdout)["num_measured"] == load(path).conditions["num_layers_measured"]
