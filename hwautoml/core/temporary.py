"""Temporary files and folders: removed when they are done with, and by the next process where one was killed."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

#: mkstemp and mkdtemp add eight characters to it; a dot hides those that lie beside what they become.
PREFIX = "hwautoml-tmp-"
_NAME = re.compile(rf"\.?{PREFIX}[a-z0-9_]{{8}}(\..*)?")
_MIN_AGE_SEC = 60.0  # between the making of one and its lock


@contextmanager
def temporary_folder(beside: Path | None = None) -> Iterator[Path]:
    """A private folder among the system's temporary ones, or hidden next to ``beside``."""
    place = Path(tempfile.gettempdir()) if beside is None else beside.parent
    _remove_leftovers_once(place)
    prefix = PREFIX if beside is None else f".{PREFIX}"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=place, ignore_cleanup_errors=True) as name:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # while it is held, somebody is at work in it
            yield Path(name)
        finally:
            os.close(descriptor)


@contextmanager
def temporary_file(beside: Path) -> Iterator[Path]:
    """An empty one with the suffix of ``beside``, hidden next to it; what has been moved away stays."""
    _remove_leftovers_once(beside.parent)
    descriptor, name = tempfile.mkstemp(prefix=f".{PREFIX}", suffix=beside.suffix, dir=beside.parent)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
        os.close(descriptor)


@cache
def _remove_leftovers_once(place: Path) -> None:
    """One look per process and folder: killed processes are rare."""
    remove_leftovers(place)


def remove_leftovers(place: Path) -> None:
    """What bears our name, is this user's, and is held by no process; what cannot be looked at or removed stays."""
    with suppress(OSError):
        for name in os.listdir(place):  # noqa: PTH208 (names, of folders that may be large)
            if _NAME.fullmatch(name):
                with suppress(OSError):
                    _remove_if_left(place / name)


def _remove_if_left(path: Path) -> None:
    status = path.lstat()
    is_ours = status.st_uid == os.getuid() and (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode))
    if not is_ours or time.time() - status.st_mtime < _MIN_AGE_SEC:
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if stat.S_ISDIR(status.st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    finally:
        os.close(descriptor)
