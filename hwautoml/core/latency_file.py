"""Latency tables as JSON files: reproducible bytes, atomic writes, nothing trusted that is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hwautoml.core.latency_model import Hyperparameters
from hwautoml.core.latency_table import SCHEMA, LatencyTable
from hwautoml.core.layer import Layer
from hwautoml.core.learned_prior import LearnedPrior
from hwautoml.core.observation import Entry, Observation
from hwautoml.core.storage import write_atomically
from hwautoml.core.table_identity import TableIdentity
from hwautoml.errors import HwAutoMLError, InvalidValueError, RunFolderError

_DIGITS = 6  # significant; a millionth of a latency is far below any noise floor


def dumps(table: LatencyTable) -> str:
    """Keys sorted, floats at 6 significant digits: equal tables give equal bytes."""
    data: dict[str, object] = {
        "schema": table.schema,
        **table.identity.to_json(),
        "origin": table.origin,
        "overhead": table.overhead.to_json(),
        "entries": {key: entry.to_json() for key, entry in table.entries.items()},
        "observations": [observation.to_json() for observation in table.observations],
        "hyperparameters": _hyperparameters_json(table),
        "conditions": table.conditions,
    }
    if table.learned is not None:
        data["learned"] = table.learned.to_json()
    return json.dumps(_rounded(data), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def save(table: LatencyTable, path: Path) -> None:
    """Write ``path`` (its folder is made) so that a reader or a crash never sees half a file."""
    write_atomically(path, dumps(table))


def load(path: Path) -> LatencyTable:
    """Read and validate; the file is never changed.

    Raises:
        RunFolderError: it is missing, damaged (with line and column) or of another schema.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RunFolderError(f"no latency table {path}", fix="hwautoml profile makes one") from None
    except UnicodeDecodeError as error:
        raise RunFolderError(f"latency table {path} is damaged: {error}", fix=_fix(path)) from error
    except OSError as error:
        raise RunFolderError(f"latency table {path} cannot be read: {error.strerror}") from error
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise RunFolderError(
            f"latency table {path} is damaged at line {error.lineno}, column {error.colno}: {error.msg}",
            fix=_fix(path),
        ) from error
    except InvalidValueError as error:
        raise RunFolderError(f"latency table {path} is damaged: {error}", fix=_fix(path)) from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise RunFolderError(f"{path} has schema {schema!r}, this version reads {SCHEMA!r}", fix=_fix(path))
    try:
        return _table(data)
    except (HwAutoMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"missing field {error}" if isinstance(error, KeyError) else str(error)
        raise RunFolderError(f"latency table {path} is damaged: {reason}", fix=_fix(path)) from error


def _table(data: Mapping[str, Any]) -> LatencyTable:
    hyperparameters = data["hyperparameters"]
    for key in data["entries"]:
        Layer.from_key(key)
    table = LatencyTable(
        TableIdentity.from_json(data),
        entries={key: Entry.from_json(entry) for key, entry in data["entries"].items()},
        overhead=Entry.from_json(data["overhead"]),
        observations=tuple(Observation.from_json(observation) for observation in data["observations"]),
        hyperparameters=None if hyperparameters is None else Hyperparameters(**hyperparameters),
        learned=None if data.get("learned") is None else LearnedPrior.from_json(data["learned"]),
        conditions=data["conditions"],
    )
    if not isinstance(table.conditions, Mapping):
        raise InvalidValueError(f"conditions must be an object, got {table.conditions!r}")
    for observation in table.observations:
        table.check_keys(key for key, _ in observation.counts)
    return table


def _hyperparameters_json(table: LatencyTable) -> dict[str, float] | None:
    """Without what no layer of the table has."""
    if table.hyperparameters is None:
        return None
    has_weights = any(entry.num_weights for entry in table.entries.values())
    return {name: value for name, value in table.hyperparameters.as_dict().items() if name != "weights" or has_weights}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return value


def _refuse_constant(name: str) -> float:
    raise InvalidValueError(f"{name} is no number")


def _fix(path: Path) -> str:
    return f"move {path} away and make it anew with hwautoml profile"
