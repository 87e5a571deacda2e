"""One run folder: settings, finished stages and a journal of evaluations in SQLite, checkpoints beside it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwautoml.core.closing import Closing
from hwautoml.core.shown import shown
from hwautoml.core.space import Architecture, SearchSpace
from hwautoml.core.storage import named_storage_errors
from hwautoml.core.task import Outcome, outcome_from_bytes, outcome_to_bytes
from hwautoml.errors import RunFolderError, StorageError
from hwautoml.store.migrations import SCHEMA, migrate

JOURNAL = "journal.sqlite"
LOCK = ".lock"  # all that a run leaves that was killed as it began
#: What SQLite says of the disk, as the system would.
_STORAGE_ERRORS = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
}

_TABLES = """
CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE stages (
    name TEXT PRIMARY KEY, seconds REAL NOT NULL, payload TEXT NOT NULL, finished REAL NOT NULL);
CREATE TABLE evaluations (
    architecture_id TEXT NOT NULL, architecture TEXT NOT NULL, weights TEXT NOT NULL, split TEXT NOT NULL,
    outcome BLOB NOT NULL, seconds REAL NOT NULL, finished REAL NOT NULL,
    PRIMARY KEY (architecture_id, weights, split));
CREATE TABLE measurements (
    architecture_id TEXT NOT NULL, target TEXT NOT NULL, runtime TEXT NOT NULL, payload TEXT NOT NULL,
    finished REAL NOT NULL);
"""


@dataclass(frozen=True)
class Evaluation:
    """``outcome`` is what the run's task keeps of a split; the store does not look into it.

    ``weights`` names what was scored.
    """

    architecture: Architecture
    weights: str
    split: str
    outcome: Outcome
    seconds: float


class RunStore(Closing):
    """Use as a context manager; one process at a time may write to a run folder."""

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        """A journal of an earlier version is brought to this one's schema.

        Raises:
            RunFolderError: no run there, a damaged journal or a later version's, or another process is at work in it.
        """
        self.folder = folder
        _require_text(folder)
        journal = folder / JOURNAL
        if create:
            with named_storage_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
        elif not journal.is_file():
            raise RunFolderError(f"{folder} holds no run (no journal.sqlite)", fix=f"hwautoml run DATA --out {folder}")
        self._lock = _lock(folder)
        try:
            self._db = sqlite3.connect(journal)
        except sqlite3.DatabaseError as error:
            self._lock.close()
            raise RunFolderError(f"{journal} cannot be opened: {error}") from error
        try:
            with self._writing():
                self._db.execute("PRAGMA journal_mode=WAL")
            with self._writing():
                self._prepare()
            (state,) = self._rows("PRAGMA quick_check(1)")[0]
            if state != "ok":
                raise self._damaged(str(state))
        except (StorageError, RunFolderError):
            self.close()
            raise
        except (sqlite3.DatabaseError, ValueError) as error:  # of SQLite's, and an outcome that is none
            self.close()
            raise self._damaged(str(error)) from error

    def _prepare(self) -> None:
        """New tables, or those of an earlier version changed: inside one transaction, so all of it or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        tables = {row[0] for row in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables:
            for statement in filter(str.strip, _TABLES.split(";")):
                self._db.execute(statement)
        else:
            schema = self.setting("schema", 1)  # versions with schema 1 wrote it last
            if schema > SCHEMA:
                raise RunFolderError(
                    f"{self.folder} was made by a version with journal schema {schema}, this one reads up to {SCHEMA}",
                    fix="use that version of hwautoml, or another folder",
                )
            if schema == SCHEMA:
                return
            migrate(self._db, schema)
        self._set_setting("schema", SCHEMA)

    def close(self) -> None:
        self._db.close()
        self._lock.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction.

        Raises:
            StorageError: the disk takes no more; what was written before is whole.
        """
        try:
            with self._db:
                yield
        except sqlite3.DatabaseError as error:
            number = _STORAGE_ERRORS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
            if number is None:
                raise self._damaged(str(error)) from error
            with named_storage_errors(self.folder / JOURNAL):
                raise OSError(number, str(error)) from error

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Raises RunFolderError: a page of the file is damaged."""
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from error

    def _decoded(self, text: object, kind: type = object) -> Any:
        """JSON of a column."""
        try:
            value = json.loads(str(text))
        except (ValueError, RecursionError) as error:
            raise self._damaged(f"{text!r:.60} is no JSON: {error}") from error
        if not isinstance(value, kind):
            raise self._damaged(f"{text!r:.60} is no {kind.__name__}")
        return value

    def _damaged(self, reason: str) -> RunFolderError:
        return RunFolderError(
            f"{self.folder / JOURNAL} is damaged: {reason}", fix="start the run anew in another folder"
        )

    def setting(self, key: str, default: Any = None) -> Any:
        rows = self._rows("SELECT value FROM settings WHERE key = ?", key)
        return self._decoded(rows[0][0]) if rows else default

    def set_setting(self, key: str, value: object) -> None:
        with self._writing():
            self._set_setting(key, value)

    def _set_setting(self, key: str, value: object) -> None:
        self._db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (key, json.dumps(value)))

    def stage(self, name: str) -> dict[str, Any] | None:
        """What a finished stage left, with its ``seconds``; None while it is not finished."""
        rows = self._rows("SELECT seconds, payload FROM stages WHERE name = ?", name)
        return {**self._decoded(rows[0][1], dict), "seconds": rows[0][0]} if rows else None

    def finish_stage(self, name: str, seconds: float, payload: Mapping[str, object]) -> None:
        with self._writing():
            self._db.execute(
                "INSERT OR REPLACE INTO stages VALUES (?, ?, ?, ?)", (name, seconds, json.dumps(payload), time.time())
            )

    def forget_stages(self, names: tuple[str, ...]) -> None:
        with self._writing():
            self._db.executemany("DELETE FROM stages WHERE name = ?", [(name,) for name in names])

    def add_evaluation(self, evaluation: Evaluation) -> None:
        with self._writing():
            self._db.execute(
                "INSERT OR REPLACE INTO evaluations VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    evaluation.architecture.id,
                    json.dumps(evaluation.architecture.as_dict),
                    evaluation.weights,
                    evaluation.split,
                    outcome_to_bytes(evaluation.outcome),
                    evaluation.seconds,
                    time.time(),
                ),
            )

    def forget_evaluations(self, architecture_id: str | None, weights: tuple[str, ...]) -> None:
        """Of one architecture or (None) of all, with these weights."""
        condition = "" if architecture_id is None else " AND architecture_id = ?"
        values = () if architecture_id is None else (architecture_id,)
        with self._writing():
            self._db.executemany(
                f"DELETE FROM evaluations WHERE weights = ?{condition}", [(name, *values) for name in weights]
            )

    def evaluations(self, space: SearchSpace, *, weights: str, split: str) -> list[Evaluation]:
        """In the order they were made."""
        rows = self._rows(
            "SELECT architecture_id, architecture, outcome, seconds FROM evaluations "
            "WHERE weights = ? AND split = ? ORDER BY finished",
            weights,
            split,
        )
        found = []
        for identity, values, blob, seconds in rows:
            architecture = space.architecture(self._decoded(values, dict))
            if architecture.id != identity or not isinstance(seconds, float):
                raise self._damaged(f"the evaluation of {identity!r:.60} is of {architecture.id}")
            found.append(Evaluation(architecture, weights, split, self._outcome(blob, identity), seconds))
        return found

    def _outcome(self, blob: object, identity: str) -> Outcome:
        """Finite numbers; what they mean is the task's business."""
        try:
            outcome = outcome_from_bytes(blob if isinstance(blob, bytes) else b"")
        except (ValueError, EOFError, TypeError, SyntaxError, OverflowError, MemoryError) as error:
            raise self._damaged(f"the outcome of {identity} is none: {error}") from error
        if outcome.dtype.kind not in "biuf" or not np.isfinite(outcome).all():
            raise self._damaged(f"the outcome of {identity} holds {outcome.ravel()[:5]}")
        return outcome

    def add_measurement(self, architecture_id: str, target: str, runtime: str, payload: Mapping[str, object]) -> None:
        with self._writing():
            self._db.execute(
                "INSERT INTO measurements VALUES (?, ?, ?, ?, ?)",
                (architecture_id, target, runtime, json.dumps(payload), time.time()),
            )

    def measurements(self, target: str, runtime: str) -> list[tuple[str, dict[str, Any]]]:
        """(architecture id, payload), oldest first."""
        rows = self._rows(
            "SELECT architecture_id, payload FROM measurements WHERE target = ? AND runtime = ? ORDER BY finished",
            target,
            runtime,
        )
        return [(str(row[0]), self._decoded(row[1], dict)) for row in rows]


def _require_text(folder: Path) -> None:
    """What reads and writes models takes paths in UTF-8 only, and would say so after the training."""
    path = str(folder.resolve())
    if path != path.encode(errors="replace").decode():
        raise RunFolderError(
            f"a run folder needs a path that is UTF-8, got {shown(path)}",
            fix="name another --out, or rename the folder",
        )


_MADE_BY_RUNS = (
    "journal.sqlite",
    "journal.sqlite-wal",
    "journal.sqlite-shm",
    "result.json",
    "report.json",
    "report.html",
    "front.png",
    "candidates.csv",
    "tables",
    "checkpoints",
    "candidates",
    "probes",
    "bundle",
    "cache",
    "exports",
    "searches",
)


def clear_run(folder: Path) -> None:
    """Remove what a run made, and nothing else.

    Raises:
        RunFolderError: another process is at work in it.
    """
    with _lock(folder):
        for path in (folder / name for name in _MADE_BY_RUNS):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _lock(folder: Path) -> Any:
    """Held while the returned file is open; released by the system even after SIGKILL."""
    file = (folder / LOCK).open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise RunFolderError(
            f"{folder} is in use by process {owner}", fix=f"wait for it, or end it: kill {owner}"
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
