"""Read a bundle, and refuse one that is incomplete or changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hwautoml.bundles.runner.run import MODEL_FILES
from hwautoml.core.artifact import sha256_file
from hwautoml.errors import RunFolderError

SCHEMA = "hwautoml-bundle/1"
MANIFEST = "manifest.json"
ONNX_FILE = "model.onnx"
TVM_FILE = "model_tvm.so"
RUNTIME_FILES = MODEL_FILES  # what the runner opens by itself
FIX = "copy the whole folder again, or write a new bundle"

_FIELDS: Mapping[str, type] = {
    "default_runtime": str,
    "num_threads": int,
    "classes": list,
    "input": dict,
    "accuracy": dict,
    "latency": dict,
    "conditions": dict,
    "architecture": dict,
    "parity": dict,
    "samples": list,
    "files": dict,
    "versions": dict,
}


@dataclass(frozen=True)
class Bundle:
    """A checked bundle; ``manifest`` is all of ``manifest.json``."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.manifest["classes"])

    @property
    def default_runtime(self) -> str:
        return str(self.manifest["default_runtime"])

    @property
    def onnx_path(self) -> Path:
        return self.path / ONNX_FILE

    @property
    def files(self) -> dict[str, Path]:
        """By runtime: what each opens. Runtimes whose file the bundle lacks are left out."""
        names, present = runtime_files(self.manifest), self.manifest["files"]
        return {runtime: self.path / name for runtime, name in names.items() if name in present}

    @property
    def tvm_library(self) -> Path | None:
        return self.path / TVM_FILE if TVM_FILE in self.manifest["files"] else None


def runtime_files(manifest: Mapping[str, Any]) -> dict[str, str]:
    """By runtime: the file in the bundle that each would open; further runtimes are the manifest's own."""
    return RUNTIME_FILES | {name: str(packed["file"]) for name, packed in manifest.get("runtimes", {}).items()}


def read_bundle(path: Path) -> Bundle:
    """Check ``manifest.json`` and the size and SHA-256 of every file it lists.

    Raises:
        RunFolderError: anything is missing, damaged or of another schema; names the file.
    """
    manifest = _read_manifest(path / MANIFEST)
    for name, expected in manifest["files"].items():
        _check_file(path, name, expected)
    for required in (ONNX_FILE, "run.py", runtime_files(manifest)[manifest["default_runtime"]]):
        if required not in manifest["files"]:
            raise RunFolderError(f"{path / MANIFEST} lists no {required}", fix=FIX)
    return Bundle(path, manifest)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunFolderError(f"{path.parent} is no bundle: it has no {MANIFEST}", fix=FIX) from error
    except (OSError, ValueError) as error:
        raise RunFolderError(f"cannot read {path}: {error}", fix=FIX) from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        schema = manifest.get("schema") if isinstance(manifest, dict) else None
        raise RunFolderError(f"{path} has schema {schema!r}, this version reads {SCHEMA!r}", fix=FIX)
    for name, kind in _FIELDS.items():
        if not isinstance(manifest.get(name), kind):
            raise RunFolderError(f"{path}: {name!r} must be a {kind.__name__}, got {manifest.get(name)!r}", fix=FIX)
    for name in ("resolution", "channels", "image_size"):
        if not isinstance(manifest["input"].get(name), int):
            raise RunFolderError(f"{path}: input needs {name!r}, got {manifest['input']!r}", fix=FIX)
    if manifest["default_runtime"] not in runtime_files(manifest):
        raise RunFolderError(f"{path}: unknown default_runtime {manifest['default_runtime']!r}", fix=FIX)
    return manifest


def _check_file(folder: Path, name: str, expected: object) -> None:
    path = folder / name
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise RunFolderError(f"{folder / MANIFEST} lists {name!r}, which lies outside the bundle", fix=FIX)
    if not isinstance(expected, dict) or not {"sha256", "size_bytes"} <= set(expected):
        raise RunFolderError(f"{folder / MANIFEST}: {name!r} needs sha256 and size_bytes, got {expected!r}", fix=FIX)
    if not path.is_file():
        raise RunFolderError(f"{path} is missing", fix=FIX)
    size_bytes = path.stat().st_size
    if size_bytes != expected["size_bytes"]:
        raise RunFolderError(f"{path} has {size_bytes} bytes, expected {expected['size_bytes']}", fix=FIX)
    try:
        digest = sha256_file(path)
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror}") from error
    if digest != expected["sha256"]:
        raise RunFolderError(f"{path} was changed: its sha256 is {digest}, expected {expected['sha256']}", fix=FIX)
