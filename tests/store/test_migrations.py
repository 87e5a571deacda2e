from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hwautoml.errors import RunFolderError
from hwautoml.spaces.mobile import MobileSpace
from hwautoml.store.migrations import SCHEMA, STEPS
from hwautoml.store.run_store import Evaluation, RunStore

SPACE = MobileSpace(8, 1, 3)
RNG = np.random.default_rng(0)
MEMBERS = list({SPACE.sample(RNG): None for _ in range(12)})
CONFUSIONS = [RNG.integers(0, 99, (3, 3)) for _ in MEMBERS]

# As the code with schema 1 had it, to the letter.
TABLES_1 = """
CREATE TABLE IF NOT EXISTS settings (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS stages (
    name TEXT PRIMARY KEY, seconds REAL NOT NULL, payload TEXT NOT NULL, finished REAL NOT NULL);
CREATE TABLE IF NOT EXISTS evaluations (
    architecture_id TEXT NOT NULL, architecture TEXT NOT NULL, weights TEXT NOT NULL, split TEXT NOT NULL,
    confusion BLOB NOT NULL, seconds REAL NOT NULL, finished REAL NOT NULL,
    PRIMARY KEY (architecture_id, weights, split));
CREATE TABLE IF NOT EXISTS measurements (
    architecture_id TEXT NOT NULL, target TEXT NOT NULL, runtime TEXT NOT NULL, payload TEXT NOT NULL,
    finished REAL NOT NULL);
"""

# Opens a journal and is killed in the middle of the step from 1 to 2.
KILLED = """
import os, signal, sys
from pathlib import Path
from hwautoml.store import migrations
from hwautoml.store.run_store import RunStore
pack, rows = migrations.outcome_to_bytes, []
def killed_at_the_sixth(matrix):
    rows.append(matrix)
    if len(rows) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return pack(matrix)
migrations.outcome_to_bytes = killed_at_the_sixth
RunStore(Path(sys.argv[1]))
"""


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    db = sqlite3.connect(tmp_path / "journal.sqlite")
    with db:
        db.execute("PRAGMA journal_mode=WAL")
        db.executescript(TABLES_1)
    with db:
        db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", ("schema", "1"))
        db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", ("plan", json.dumps({"train": 1.5})))
        db.execute("INSERT OR REPLACE INTO stages VALUES (?, ?, ?, ?)", ("train", 2.5, json.dumps({"steps": 7}), 1.0))
        db.execute("INSERT INTO measurements VALUES (?, ?, ?, ?, ?)", ("abc", "cpu", "tvm", "{}", 1.0))
        for number, (member, confusion) in enumerate(zip(MEMBERS, CONFUSIONS, strict=True)):
            values, blob = json.dumps(member.as_dict), confusion.astype("<i8").tobytes()
            row = (member.id, values, "supernet", "val", blob, 0.5, 100.0 - number)
            db.execute("INSERT OR REPLACE INTO evaluations VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    db.close()
    return tmp_path


def require_all(store: RunStore) -> None:
    found = store.evaluations(SPACE, weights="supernet", split="val")
    assert [e.architecture for e in found] == MEMBERS[::-1], "in the order they were made"
    for evaluation, confusion in zip(found, CONFUSIONS[::-1], strict=True):
        assert np.array_equal(evaluation.outcome, confusion) and evaluation.seconds == 0.5
    assert store.setting("plan") == {"train": 1.5} and store.setting("schema") == SCHEMA == 2
    assert store.stage("train") == {"steps": 7, "seconds": 2.5} and store.measurements("cpu", "tvm") == [("abc", {})]


def test_a_journal_of_schema_1_is_migrated_with_all_it_holds(old_run: Path) -> None:
    for _ in range(2):
        with RunStore(old_run) as store:
            require_all(store)
    with RunStore(old_run) as store:  # and it can be written on
        store.add_evaluation(Evaluation(MEMBERS[0], "supernet", "test", np.eye(3, dtype=np.int64), 1.0))
        assert len(store.evaluations(SPACE, weights="supernet", split="test")) == 1


def test_a_migration_that_is_killed_leaves_the_journal_as_it_was(old_run: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(old_run)], env={**os.environ}, check=False)
    assert done.returncode == -signal.SIGKILL
    with sqlite3.connect(old_run / "journal.sqlite") as db:
        assert db.execute("SELECT value FROM settings WHERE key = 'schema'").fetchone() == ("1",)
        blobs = [row[0] for row in db.execute("SELECT confusion FROM evaluations ORDER BY finished DESC")]
    db.close()
    assert blobs == [c.astype("<i8").tobytes() for c in CONFUSIONS]
    with RunStore(old_run) as store:
        require_all(store)


def test_what_is_no_matrix_is_a_damaged_journal_and_lets_the_folder_go(old_run: Path) -> None:
    with sqlite3.connect(old_run / "journal.sqlite") as db:
        db.execute("UPDATE evaluations SET confusion = ? WHERE architecture_id = ?", (bytes(16), MEMBERS[3].id))
    db.close()
    for _ in range(2):
        with pytest.raises(RunFolderError, match="journal.sqlite is damaged: cannot reshape"):
            RunStore(old_run)


def test_the_oldest_journals_have_no_schema_written_down(old_run: Path) -> None:
    """Killed between its tables and its schema: it was made by a version with schema 1."""
    with sqlite3.connect(old_run / "journal.sqlite") as db:
        db.execute("DELETE FROM settings WHERE key = 'schema'")
    db.close()
    with RunStore(old_run) as store:
        require_all(store)


def test_there_is_a_step_from_every_schema() -> None:
    assert list(STEPS) == list(range(1, SCHEMA))
