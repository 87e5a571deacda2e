"""What was measured so far, one JSON line each: survives SIGKILL, refuses two writers."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hwautoml.errors import RunFolderError

logger = logging.getLogger(__name__)

_POLL_SEC = 0.5
_SCHEMA = "profile-journal/v3"  # v2: samples are fastest parts; v3: the reference is an average network


class Journal:
    """Append-only; every line is on disk before ``append`` returns.

    A last line that a crash cut short is dropped. ``setting`` identifies what is being measured;
    a journal of another one (an older runtime, another machine) is set aside as ``.old``, ``.old2``, ...

    Raises:
        RunFolderError: the journal is damaged before its last line.
    """

    def __init__(self, path: Path, setting: Mapping[str, object]) -> None:
        self._path = path
        header = {"record": "header", "schema": _SCHEMA, **setting}
        path.parent.mkdir(parents=True, exist_ok=True)
        self.records = self._read()
        if self.records and self.records[0] != header:
            self._set_aside(header)
        if not self.records:
            self.append(header)

    def of(self, record: str) -> list[dict[str, Any]]:
        """All lines of one kind, in the order they were measured."""
        return [line for line in self.records if line["record"] == record]

    def append(self, record: dict[str, Any]) -> None:
        line = json.dumps(record, sort_keys=True, allow_nan=False) + "\n"
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        # What is read back on resume is what was kept in memory: the same numbers either way.
        self.records.append(json.loads(line))

    def _read(self) -> list[dict[str, Any]]:
        if not self._path.is_file():
            return []
        content = self._path.read_bytes()
        whole, _, torn = content.rpartition(b"\n")
        if torn:
            with self._path.open("r+b") as file:
                file.truncate(len(content) - len(torn))
        records = []
        for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
            try:
                record = json.loads(line)
            except ValueError as error:
                raise self._damaged(number, str(error)) from error
            if not isinstance(record, dict) or "record" not in record:
                raise self._damaged(number, "no record")
            records.append(record)
        return records

    def _set_aside(self, header: Mapping[str, object]) -> None:
        found = self.records[0]
        changed = sorted(name for name in header.keys() | found.keys() if header.get(name) != found.get(name))
        old = free_name(self._path)
        logger.warning(
            "%s was measured with other settings (%s) and is kept as %s",
            self._path,
            ", ".join(f"{name} was {found.get(name)!r}, is {header.get(name)!r}" for name in changed),
            old.name,
        )
        self._path.replace(old)
        self.records = []

    def _damaged(self, number: int, reason: str) -> RunFolderError:
        return RunFolderError(
            f"{self._path} is damaged at line {number}: {reason}", fix=f"move {self._path} away to measure anew"
        )


def free_name(path: Path) -> Path:
    """``path`` with ``.old`` (``.old2``, ...) appended: what is set aside replaces nothing."""
    numbers = (path.with_name(f"{path.name}.old{number or ''}") for number in (0, *range(2, 10_000)))
    return next(candidate for candidate in numbers if not candidate.exists())


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold ``path`` for this process; released by the kernel however the process ends.

    Raises:
        RunFolderError: another process holds it; its id is named.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise RunFolderError(
                f"process {file.read().strip() or 'unknown'} is profiling into the same table (lock {path})",
                fix="wait for it, or end it",
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def wait_while_held(path: Path, timeout_sec: float, on_wait: Callable[[str], None]) -> bool:
    """Whether another process held ``path`` (an `exclusive_lock`) and has let go of it within the time.

    ``on_wait`` is told the other's id, now and then.
    """
    deadline, has_waited = time.monotonic() + timeout_sec, False
    while path.is_file():
        with path.open(encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return has_waited
            except BlockingIOError:
                owner = file.read().strip() or "unknown"
        if time.monotonic() >= deadline:
            return False
        has_waited = True
        on_wait(owner)
        time.sleep(_POLL_SEC)
    return has_waited
