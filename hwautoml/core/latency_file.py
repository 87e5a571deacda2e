"""Latency tables as JSON files: reproducible bytes, atomic writes, nothing trusted that is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from hwautoml.core.latency_model import Hyperparameters
from hwautoml.core.latency_table import SCHEMA, Entry, LatencyTable, Observation
from hwautoml.core.layer import Layer
from hwautoml.core.learned_prior import LearnedPrior
from hwautoml.core.storage import write_atomically
from hwautoml.core.table_identity import TableIdentity
from hwautoml.errors import HwAutoMLError, InvalidValueError, RunFolderError

_DIGITS = 6  # significant; a millionth of a latency is far below any noise floor


def dumps(table: LatencyTable) -> str:
    """Keys sorted, floats at 6 significant digits: equal tables give equal bytes."""
    data: dict[str, object] = {
        "schema": table.schema,
        "target": table.target,
        "runtime": table.runtime,
        "num_threads": table.num_threads,
        "batch": table.batch,
        "precision": table.precision,
        "space": table.space,
        "origin": table.origin,
        "overhead": _entry_json(table.overhead),
        "entries": {key: _entry_json(entry) for key, entry in table.entries.items()},
        "observations": [
            {
                "architecture_id": o.architecture_id,
                "counts": dict(o.counts),
                "measured_ms": o.measured_ms,
                "deviation_ms": o.deviation_ms,
                "session": o.session,
            }
            for o in table.observations
        ],
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
        raise RunFolderError(f"no latency table {path}", fix="hwautoml profile --target T") from None
    except UnicodeDecodeError as error:
        raise RunFolderError(f"latency table {path} is damaged: {error}", fix=_new_file(path)) from error
    except OSError as error:
        raise RunFolderError(f"latency table {path} cannot be read: {error.strerror}") from error
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise RunFolderError(
            f"latency table {path} is damaged at line {error.lineno}, column {error.colno}: {error.msg}",
            fix=_new_file(path),
        ) from error
    except InvalidValueError as error:
        raise RunFolderError(f"latency table {path} is damaged: {error}", fix=_new_file(path)) from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise RunFolderError(f"{path} has schema {schema!r}, this version reads {SCHEMA!r}", fix=_new_file(path, data))
    try:
        return _table(data)
    except (HwAutoMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"missing field {error}" if isinstance(error, KeyError) else str(error)
        raise RunFolderError(f"latency table {path} is damaged: {reason}", fix=_new_file(path, data)) from error


def check_matches(
    table: LatencyTable,
    *,
    target: str,
    runtime: str,
    runtime_version: str | None,
    num_threads: int,
    batch: int,
    precision: str,
    space: str,
) -> None:
    """All differences are reported together. ``runtime_version`` None: not known here, not compared.

    An estimated table has no runtime version and is not compared either.

    Raises:
        RunFolderError: the table was made under other conditions; it names the command that makes a new one.
    """
    wanted = {
        "target": target,
        "runtime": runtime,
        "num_threads": num_threads,
        "batch": batch,
        "precision": precision,
        "space": space,
    }
    if runtime_version is not None and table.runtime_version is not None:
        wanted["runtime_version"] = runtime_version
    problems = [
        f"{name} is {getattr(table, name)!r}, needed {value!r}"
        for name, value in wanted.items()
        if getattr(table, name) != value
    ]
    if problems:
        raise RunFolderError(
            f"the latency table of target {table.target!r} does not fit: " + "; ".join(problems),
            fix=TableIdentity(target, runtime, num_threads, batch, precision, space).command,
        )


def _table(data: Mapping[str, Any]) -> LatencyTable:
    hyperparameters = data["hyperparameters"]
    for key in data["entries"]:
        Layer.from_key(key)
    table = LatencyTable(
        target=_typed(data, "target", str),
        runtime=_typed(data, "runtime", str),
        num_threads=_typed(data, "num_threads", int),
        batch=_typed(data, "batch", int),
        precision=_typed(data, "precision", str),
        space=_typed(data, "space", str),
        entries={key: Entry(**entry) for key, entry in data["entries"].items()},
        overhead=Entry(**data["overhead"]),
        observations=tuple(
            Observation(
                _typed(o, "architecture_id", str),
                tuple(sorted(_typed(o, "counts", dict).items())),
                float(o["measured_ms"]),
                float(o["deviation_ms"]),
                str(o.get("session", "")),
            )
            for o in data["observations"]
        ),
        hyperparameters=None if hyperparameters is None else Hyperparameters(**hyperparameters),
        learned=None if data.get("learned") is None else LearnedPrior.from_json(data["learned"]),
        conditions=_typed(data, "conditions", dict),
    )
    for observation in table.observations:
        table.check_keys(key for key, _ in observation.counts)
    return table


def _typed(data: Mapping[str, Any], name: str, kind: type) -> Any:
    if not isinstance(data[name], kind) or isinstance(data[name], bool):
        raise InvalidValueError(f"{name} must be {kind.__name__}, got {data[name]!r}")
    return data[name]


def _entry_json(entry: Entry) -> dict[str, object]:
    data: dict[str, object] = {"mean_ms": entry.mean_ms, "deviation_ms": entry.deviation_ms, "origin": entry.origin}
    return data | ({"num_weights": entry.num_weights} if entry.num_weights else {})


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


def _new_file(path: Path, data: Mapping[str, Any] | None = None) -> str:
    """What to do about a file that cannot be used; ``data`` is what could be read of it."""
    try:
        command = TableIdentity(**{field.name: (data or {})[field.name] for field in fields(TableIdentity)}).command
    except (InvalidValueError, KeyError, TypeError, AttributeError):  # it does not say what it was
        command = "hwautoml profile --target T"
    return f"move {path} away, then: {command}"
