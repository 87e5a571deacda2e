"""Files that are either whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwautoml.errors import RunFolderError

if TYPE_CHECKING:
    from torch import Tensor


def write_json(path: Path, data: object) -> Path:
    return _replace(path, lambda temporary: temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8"))


def write_text(path: Path, text: str) -> Path:
    return _replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> Any:
    """Raises RunFolderError naming the file, with line and column where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunFolderError(f"{path} does not exist") from error
    except json.JSONDecodeError as error:
        raise RunFolderError(f"{path} is damaged at line {error.lineno}, column {error.colno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise RunFolderError(f"{path} is damaged at byte {error.start}: it is no UTF-8 text") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """safetensors; strings in ``metadata`` travel in the header, so that both are always of one moment."""
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return _replace(path, lambda temporary: save_file(plain, temporary, metadata=dict(metadata or {})))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata).

    Raises:
        RunFolderError: the file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except FileNotFoundError as error:
        raise RunFolderError(f"{path} does not exist") from error
    except SafetensorError as error:
        raise RunFolderError(
            f"{path} is damaged: {error}", fix=f"remove it, the work it held is done again: rm {path}"
        ) from error


def _replace(path: Path, write: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
