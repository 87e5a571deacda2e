"""Read a bundle, and refuse one that is incomplete or changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwautoml.bundles.runner import run
from hwautoml.core.artifact import sha256_file
from hwautoml.errors import RunFolderError

SCHEMA, MANIFEST, SEAL, RUNTIME_FILES = run.SCHEMA, run.MANIFEST, run.SEAL, run.MODEL_FILES
ONNX_FILE, TVM_FILE = RUNTIME_FILES["onnxruntime"], RUNTIME_FILES["tvm"]
FIX = "copy the whole folder again, or write a new bundle"

#: Beyond what its runners rely on.
_FIELDS: Mapping[str, type] = {
    "accuracy": dict,
    "latency": dict,
    "conditions": dict,
    "architecture": dict,
    "parity": dict,
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
    if not path.is_file():
        raise RunFolderError(f"{path.parent} is no bundle: it has no {MANIFEST}", fix=FIX)
    try:
        manifest = run.read_manifest(path.parent)
    except run.BundleError as error:
        raise RunFolderError(str(error), fix=FIX) from error
    for name, kind in _FIELDS.items():
        if not isinstance(manifest.get(name), kind):
            found = repr(manifest.get(name))[:80]
            raise RunFolderError(f"{path}: {name!r} must be a {kind.__name__}, got {found}", fix=FIX)
    return manifest


def unknown_files(bundle: Bundle) -> list[str]:
    """What lies in the folder and is not in its manifest: a module that a program may import, say."""
    known = {MANIFEST, SEAL, *bundle.manifest["files"]}
    found = (path for path in bundle.path.rglob("*") if not path.is_dir() or path.is_symlink())
    return sorted(name for name in (path.relative_to(bundle.path).as_posix() for path in found) if name not in known)


def _check_file(folder: Path, name: str, expected: Mapping[str, Any]) -> None:
    path = folder / name
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
