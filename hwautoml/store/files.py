"""Files that are either whole or not there."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwautoml.core.storage import replaced_atomically, write_atomically
from hwautoml.errors import RunFolderError

if TYPE_CHECKING:
    from torch import Tensor


_MAX_JSON_BYTES = 1 << 30


def write_json(path: Path, data: object) -> Path:
    return write_atomically(path, json.dumps(data, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """Raises RunFolderError naming the file, with line and column where it is damaged."""
    try:
        if path.exists() and not path.is_file():
            raise RunFolderError(f"{path} is no regular file")
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise RunFolderError(f"{path} is damaged: it has {path.stat().st_size:,} bytes")
        value = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(value, ensure_ascii=False).encode()  # halves of characters, written as escapes, are no text
        return value
    except FileNotFoundError as error:
        raise RunFolderError(f"{path} does not exist") from error
    except json.JSONDecodeError as error:
        raise RunFolderError(f"{path} is damaged at line {error.lineno}, column {error.colno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise RunFolderError(f"{path} is damaged at byte {error.start}: it is no UTF-8 text") from error
    except UnicodeEncodeError as error:
        raise RunFolderError(f"{path} is damaged: it holds {error.object[error.start]!r}, which is no text") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, lists in lists in lists
        raise RunFolderError(f"{path} is damaged: {error}") from error
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror}") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """safetensors; strings in ``metadata`` travel in the header, so that both are always of one moment."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replaced_atomically(path) as temporary:
        try:
            save_file(plain, temporary, metadata=dict(metadata or {}))
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
    return path


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata).

    Raises:
        RunFolderError: the file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if path.exists() and not path.is_file():
        raise RunFolderError(f"{path} is no regular file", fix=f"remove it, the work it held is done again: rm {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except FileNotFoundError as error:
        raise RunFolderError(f"{path} does not exist") from error
    except SafetensorError as error:
        raise RunFolderError(
            f"{path} is damaged: {error}", fix=f"remove it, the work it held is done again: rm {path}"
        ) from error
