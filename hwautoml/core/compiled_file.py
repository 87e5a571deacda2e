"""Where a compiled file comes from and what runs it, kept in the folder it was written into."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwautoml.core import json_form
from hwautoml.core.artifact import sha256_file
from hwautoml.core.form import Form
from hwautoml.core.storage import write_atomically
from hwautoml.errors import InvalidValueError, RunFolderError

COMPILED_FILE = "compiled.json"
SCHEMA = "hwautoml-compiled/1"
_FIX = "compile the model again into that folder"


@dataclass(frozen=True)
class CompiledFile:
    """``name`` is the file's in its folder; ``source`` the model it was compiled from, as it was called then.

    ``sha256`` and ``source_sha256`` are hexadecimal. ``num_threads`` were compiled in where the runtime does so.
    """

    name: str
    sha256: str
    source: str
    source_sha256: str
    target: str
    runtime: str
    runtime_version: str
    precision: str
    num_threads: int

    def __post_init__(self) -> None:
        if not self.name or Path(self.name).name != self.name:
            raise InvalidValueError(f"{self.name!r} is no name of a file in the folder")

    @property
    def form(self) -> Form:
        return Form(self.runtime, self.precision)

    def to_json(self) -> dict[str, Any]:
        return json_form.to_json(self)

    @classmethod
    def from_json(cls, data: object, where: str) -> CompiledFile:
        """Raises InvalidValueError for missing fields and wrong values; ``where`` is what it calls the data."""
        return json_form.from_json(cls, data, where)


def add_compiled(folder: Path, compiled: CompiledFile) -> Path:
    """Beside what the folder's description holds already; an earlier file of that name is replaced."""
    path = folder / COMPILED_FILE
    others = [other for other in (read_compiled(folder) if path.is_file() else ()) if other.name != compiled.name]
    files = [file.to_json() for file in (*others, compiled)]
    return write_atomically(path, json.dumps({"schema": SCHEMA, "files": files}, indent=1) + "\n")


def read_compiled(folder: Path) -> tuple[CompiledFile, ...]:
    """What ``hwautoml compile`` wrote into the folder, in that order.

    Raises:
        RunFolderError: there is no description, or it is damaged.
    """
    path = folder / COMPILED_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA:
            raise RunFolderError(f"{path} has schema {data['schema']!r}, this version reads {SCHEMA!r}", fix=_FIX)
        return tuple(CompiledFile.from_json(file, str(path)) for file in data["files"])
    except FileNotFoundError as error:
        raise RunFolderError(f"{folder} holds no {COMPILED_FILE}", fix=_FIX) from error
    except (OSError, ValueError, TypeError, KeyError, InvalidValueError) as error:
        raise RunFolderError(f"{path} is damaged: {error}", fix=_FIX) from error


def require_unchanged(folder: Path, compiled: CompiledFile) -> Path:
    """The file; RunFolderError where it is missing or is not what was compiled."""
    path = folder / compiled.name
    if not path.is_file():
        raise RunFolderError(f"{path} is missing", fix=_FIX)
    if sha256_file(path) != compiled.sha256:
        raise RunFolderError(f"{path} is not the file that was compiled there", fix=_FIX)
    return path
