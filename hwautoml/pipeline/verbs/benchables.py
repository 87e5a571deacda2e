"""From what a user names - files, bundles, run folders - to what a runtime opens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hwautoml.bundles import read_bundle
from hwautoml.compilers import backend_names, load_backend
from hwautoml.errors import InvalidValueError, MissingDependencyError, UnknownNameError
from hwautoml.pipeline.tables.finding import usable_runtimes
from hwautoml.pipeline.tables.shipped_records import take_over_shipped_records
from hwautoml.store.table_library import TableLibrary

if TYPE_CHECKING:
    from hwautoml.core.target import Target

#: What a file is run by unless the user says otherwise.
RUNTIME_OF_SUFFIX = {".onnx": "onnxruntime", ".so": "tvm", ".pt2": "torch"}
#: Runtimes that open the source itself; the others compile it first.
_OPEN_SOURCES = ("onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "torch")
_FIX = "name .onnx files, .so files made by compile, .pt2 programs, bundles or run folders"


@dataclass(frozen=True)
class Benchable:
    """One file to be run by one runtime; ``name`` is what the user called it.

    ``is_compiled``: the runtime opens ``path`` as it is, whatever a source of its would be.
    """

    name: str
    runtime: str
    path: Path
    is_compiled: bool = False


def parse_runtimes(text: str | None) -> tuple[str, ...] | None:
    """``onnxruntime,tvm`` to names; None where each file's own runtime is meant.

    Raises:
        UnknownNameError: no backend of that name.
        MissingDependencyError: it is not usable here.
    """
    if text is None:
        return None
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise InvalidValueError(f"--runtime names no runtime: {text!r}", fix=f"--runtime {','.join(backend_names())}")
    for name in names:
        if name not in backend_names():
            raise UnknownNameError("runtime", name, backend_names())
        reason = load_backend(name).unavailable_reason()
        if reason is not None:
            raise MissingDependencyError(f"runtime {name!r} is not usable: {reason}")
    return names


def own_runtimes(target: Target) -> dict[str, str]:
    """What runs a file on the target unless the user says otherwise, by suffix: on a GPU the first of its runtimes."""
    if not target.is_cuda:
        return RUNTIME_OF_SUFFIX
    usable = usable_runtimes(target) or target.runtimes
    return {".onnx": "tvm", ".so": "tvm"} | {load_backend(name).SOURCE_SUFFIX: name for name in reversed(usable)}


def require_of_target(runtimes: tuple[str, ...], target: Target) -> None:
    """Raises UnknownNameError for runtimes that a GPU's networks don't run on: they would run on the processor."""
    for name in runtimes if target.is_cuda else ():
        if name not in target.runtimes:
            raise UnknownNameError(f"runtime of target {target.name}", name, target.runtimes)


def benchables(
    artifact: Path, runtimes: tuple[str, ...] | None, batch: int, own: Mapping[str, str] = RUNTIME_OF_SUFFIX
) -> tuple[list[Benchable], list[str]]:
    """What to measure of one artifact, and why it is not measured on the other runtimes asked for.

    ``own`` are `own_runtimes`.

    Raises:
        InvalidValueError: it is nothing that could be run; RunFolderError: a bundle is incomplete or changed.
    """
    if artifact.is_dir():
        return _of_bundle(artifact, runtimes, batch, own)
    if artifact.suffix not in RUNTIME_OF_SUFFIX or not artifact.is_file():
        reason = "does not exist" if not artifact.exists() else "is no .onnx, .so or .pt2 file"
        raise InvalidValueError(f"{artifact} {reason}", fix=_FIX)
    found, skipped = [], []
    for runtime in runtimes or ((own[artifact.suffix],) if artifact.suffix in own else ()):
        if artifact.suffix == ".so" and runtime == "tvm":
            found.append(Benchable(str(artifact), runtime, artifact, is_compiled=True))
        elif artifact.suffix == load_backend(runtime).SOURCE_SUFFIX:
            found.append(Benchable(str(artifact), runtime, artifact))
        else:
            takes = load_backend(runtime).SOURCE_SUFFIX
            skipped.append(f"{artifact} on {runtime}: it takes {takes} files, not {artifact.suffix}")
    return found, skipped


def _of_bundle(
    folder: Path, runtimes: tuple[str, ...] | None, batch: int, own: Mapping[str, str]
) -> tuple[list[Benchable], list[str]]:
    inner = folder / "bundle"
    bundle = read_bundle(inner if (inner / "manifest.json").is_file() else folder)
    library = bundle.tvm_library
    shipped = dict.fromkeys([own[".onnx"]] if library is None else [own[".onnx"], "tvm"])
    found, skipped = [], []
    for runtime in runtimes or shipped:
        if runtime == "tvm" and library is not None and batch == 1:
            found.append(Benchable(str(folder), runtime, library, is_compiled=True))
        elif load_backend(runtime).SOURCE_SUFFIX == ".onnx":
            found.append(Benchable(str(folder), runtime, bundle.onnx_path))
        else:
            takes = load_backend(runtime).SOURCE_SUFFIX
            skipped.append(f"{folder} on {runtime}: it takes {takes} files, and a bundle has none")
    return found, skipped


def prepare(item: Benchable, target: Target, batch: int, folder: Path, profiles_dir: Path | None) -> Path:
    """The file that the runtime opens, for ``batch``; what has to be compiled for it goes into ``folder``.

    Raises:
        CompileError: the file cannot be read, brought to the batch or compiled.
    """
    from hwautoml.exporters.batching import with_batch

    if item.is_compiled:
        return item.path
    source = item.path
    if source.suffix == ".onnx":
        source = with_batch(source, folder / "batched.onnx", batch)
    is_moved = item.runtime == "torch" and target.is_cuda  # compiling puts a program's weights on the device
    if item.runtime in _OPEN_SOURCES and not is_moved:
        return source
    library = TableLibrary(profiles_dir)
    records = take_over_shipped_records(target.name, library) if item.runtime == "tvm" else None
    compiled = load_backend(item.runtime).compile_model(
        source,
        folder,
        tvm_target=target.tvm,
        num_threads=target.num_threads,
        records_path=records,
    )
    return compiled.path
