"""A file that was made from a trained architecture, identified by its content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Artifact:
    """``format`` is what the file is: ``onnx``, ``tvm``, ...; ``sha256`` is hexadecimal, of the whole file."""

    path: Path
    format: str
    sha256: str
    architecture_id: str
    size_bytes: int

    @classmethod
    def of_file(cls, path: Path, format: str, architecture_id: str) -> Artifact:
        """Raises OSError when the file cannot be read."""
        return cls(path, format, sha256_file(path), architecture_id, path.stat().st_size)


def sha256_file(path: Path) -> str:
    """Hexadecimal; the file is read in pieces, so its size does not matter."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
