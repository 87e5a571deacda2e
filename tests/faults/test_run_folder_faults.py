"""Run folders that were left half-made, are damaged, or have names that no file can hold."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwautoml import pipeline
from hwautoml.core.task import outcome_to_bytes
from hwautoml.errors import HwAutoMLError, InvalidValueError, RunFolderError
from hwautoml.pipeline.verbs.running import _open_journal
from hwautoml.reports.report import write_report
from hwautoml.spaces.mobile import MobileSpace
from hwautoml.store.files import read_json
from hwautoml.store.run_store import Evaluation, RunStore
from tests.faults.damaging import WRONG, damage, places, with_value
from tests.reports.conftest import example

GIVEN = {"source": "digits", "target": "cpu", "latency_ms": 1.0, "budget_sec": 60.0}


def test_a_path_that_is_no_utf8_is_refused_before_any_work(tmp_path: Path) -> None:
    """Readers of tensors and models take none, and would say so after the training."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/out\xff"))
    with pytest.raises(RunFolderError, match=r"needs a path that is UTF-8, got .*out\\xff"):
        RunStore(folder, create=True)
    assert not folder.exists()


def test_a_run_that_was_killed_as_it_began_is_begun_anew(tmp_path: Path) -> None:
    """It leaves a folder with nothing but its lock."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").write_text("4711")
    with _open_journal(tmp_path / "run", GIVEN, resume=False, overwrite=False) as journal:
        assert journal.settings is not None
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    with pytest.raises(RunFolderError, match="holds other files and no run"):
        _open_journal(tmp_path / "other", GIVEN, resume=False, overwrite=False)


# The journal.

SPACE = MobileSpace(8, 1, 3)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A run's folder with a setting, a stage, an evaluation and a measurement."""
    with RunStore(tmp_path / "run", create=True) as store:
        store.set_setting("settings", {"seed": 1})
        store.finish_stage("train", 1.0, {"images": 5})
        architecture = SPACE.sample(np.random.default_rng(0))
        counts = np.array([[3, 1], [0, 4]])
        store.add_evaluation(Evaluation(architecture, "supernet", "val", counts, 0.1))
        store.add_measurement(architecture.id, "cpu", "tvm", {"median_ms": 1.0})
    return tmp_path / "run"


def read_all(folder: Path) -> None:
    with RunStore(folder) as store:
        store.setting("settings")
        store.stage("train")
        store.evaluations(SPACE, weights="supernet", split="val")
        store.measurements("cpu", "tvm")


def change(folder: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(folder / "journal.sqlite") as database:
        database.execute(statement, values)
    database.close()


@pytest.mark.parametrize(
    "outcome",
    [b"", b"1234567", outcome_to_bytes(np.eye(2))[:-1], outcome_to_bytes(np.array([[np.nan, 1.0]])), "text", 5],
)
def test_outcomes_are_checked(journal: Path, outcome: object) -> None:
    read_all(journal)
    change(journal, "UPDATE evaluations SET outcome = ?", outcome)
    with pytest.raises(RunFolderError, match=r"journal\.sqlite is damaged: the outcome of"):
        read_all(journal)


@pytest.mark.parametrize(
    ("statement", "value"),
    [
        ("UPDATE settings SET value = ?", "{"),
        ("UPDATE settings SET value = ?", "[" * 50_000),
        ("UPDATE settings SET value = ?", b"\xff\xfe"),
        ("UPDATE stages SET payload = ?", "[]"),
        ("UPDATE measurements SET payload = ?", "3"),
        ("UPDATE evaluations SET architecture_id = ?", "other"),
        ("UPDATE evaluations SET architecture = ?", "null"),
        ("UPDATE evaluations SET seconds = ?", "soon"),
    ],
)
def test_columns_are_checked(journal: Path, statement: str, value: object) -> None:
    change(journal, statement, value)
    with pytest.raises(RunFolderError, match=r"journal\.sqlite is damaged"):
        read_all(journal)


@pytest.mark.parametrize("rounds", [40, pytest.param(600, marks=pytest.mark.faults)])
def test_damaged_journals(journal: Path, rounds: int) -> None:
    whole, rng = (journal / "journal.sqlite").read_bytes(), np.random.default_rng(rounds)
    refused = 0
    for _ in range(rounds):
        for path in journal.glob("journal.sqlite*"):
            path.unlink()
        (journal / "journal.sqlite").write_bytes(whole)
        damage(journal / "journal.sqlite", rng)
        try:
            read_all(journal)
        except (RunFolderError, InvalidValueError) as error:
            refused += "journal.sqlite" in str(error)
    assert refused > rounds / 4


# What a finished run says of itself.


@pytest.mark.parametrize("step", [151, pytest.param(5, marks=pytest.mark.faults)])
def test_no_value_in_a_report_leads_to_a_traceback(tmp_path: Path, step: int) -> None:
    """Every place of report.json with every wrong value: written, or refused with the field's name."""
    data = example()
    trials = [(place, value) for place in places(data) for value in WRONG][::step]
    refused = 0
    for place, value in trials:
        (tmp_path / "report.json").write_text(json.dumps(with_value(data, place, value)), encoding="utf-8")
        try:
            write_report(read_json(tmp_path / "report.json"), tmp_path / "out")
        except (InvalidValueError, RunFolderError) as error:
            refused += 1
            assert len(str(error)) < 2000
    assert refused > len(trials) / 4


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, '["\\ud800"]', "", "\0"])
def test_json_that_is_hard_to_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text, encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"result\.json is damaged"):
        read_json(tmp_path / "result.json")


# Whole runs.


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    pipeline.run("digits", target="cpu", latency_ms=5.0, budget_sec=30.0, out=folder)
    return folder


def _files(folder: Path) -> Iterator[Path]:
    written = {".lock", "report.html", "front.png", "candidates.csv"}
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in written)


VERBS: dict[str, tuple[Callable[[Path], Any], int]] = {
    "report": (pipeline.report, 200),
    "search": (lambda folder: pipeline.search(folder, budget_sec=0.3), 120),
    "export": (pipeline.export, 120),
    "run": (lambda folder: pipeline.run(out=folder, resume=True), 60),
    "verify": (lambda folder: pipeline.verify(folder, no_latency=True), 120),
}


@pytest.mark.faults
@pytest.mark.parametrize("verb", VERBS)
def test_damaged_run_folders(finished: Path, tmp_path: Path, verb: str) -> None:
    """Whatever is damaged, a verb works or says what is wrong: no traceback, in bounded memory."""
    call, trials = VERBS[verb]
    rng = np.random.default_rng(len(verb))
    for _ in range(trials):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(finished, tmp_path / "run")
        candidates = [path for path in _files(tmp_path / "run") if path.stat().st_size]
        damage(candidates[int(rng.integers(len(candidates)))], rng)
        try:
            call(tmp_path / "run")
        except HwAutoMLError as error:
            assert len(str(error)) < 4000
