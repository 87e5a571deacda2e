"""Read latency tables, and say which command makes one anew."""

from __future__ import annotations

import json
from pathlib import Path

from hwautoml.core.latency_file import load
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.table_identity import TableIdentity
from hwautoml.errors import InvalidValueError, RunFolderError


def load_table(path: Path) -> LatencyTable:
    """``latency_file.load``, whose errors end with the command that makes the table anew.

    Raises:
        RunFolderError: it is missing, damaged or of another schema.
    """
    try:
        return load(path)
    except RunFolderError as error:
        if not path.exists():
            raise RunFolderError(error.message, fix="hwautoml profile --target T") from error
        if path.is_dir():
            fix = f"name the file of one table; a run keeps its own in {path / 'tables'}"
            raise RunFolderError(error.message, fix=fix) from error
        raise RunFolderError(error.message, fix=f"move {path} away, then: {_command_of(path)}") from error


def profile_command(identity: TableIdentity) -> str:
    """What measures a table of this identity."""
    return f"hwautoml profile {identity_flags(identity)}"


def identity_flags(identity: TableIdentity) -> str:
    """As every command takes them that makes a table; those with a default of their own are left out."""
    name, _, size = identity.space.partition("/")[0], *identity.space.rpartition("/")[1:]
    side, _, channels = size.partition("x")[0], *size.rpartition("x")[1:]
    flags = {
        "--target": identity.target,
        "--space": name,
        "--image-size": side,
        "--channels": "grey" if channels == "1" else "",
        "--runtime": identity.runtime,
        "--threads": str(identity.num_threads),
        "--batch": str(identity.batch) if identity.batch != 1 else "",
        "--precision": identity.precision if identity.precision != "fp32" else "",
    }
    return " ".join(f"{flag} {value}" for flag, value in flags.items() if value)


def _command_of(path: Path) -> str:
    """As far as the file that cannot be used still says what it was of."""
    try:
        return profile_command(TableIdentity.from_json(json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, InvalidValueError):
        return "hwautoml profile --target T"
