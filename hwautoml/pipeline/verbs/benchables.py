"""From what a user names - files, bundles, run folders - to what a runtime opens."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hwautoml.bundles import read_bundle
from hwautoml.compilers import all_traits, backend_names, load_backend, traits_of
from hwautoml.compilers.base import Tuning
from hwautoml.core.artifact import sha256_file
from hwautoml.core.compiled_file import COMPILED_FILE, CompiledFile, read_compiled, require_unchanged
from hwautoml.errors import InvalidValueError, MissingDependencyError, UnknownNameError
from hwautoml.pipeline.tables.finding import usable_runtimes
from hwautoml.pipeline.tables.shipped_records import take_over_shipped_records
from hwautoml.store.table_library import TableLibrary

if TYPE_CHECKING:
    from hwautoml.core.target import Target

_log = logging.getLogger(__name__)
_FIX = "name .onnx files, files or folders made by compile, .pt2 programs, bundles or run folders"


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
    traits = all_traits()
    own = {suffix: name for name in reversed(traits) for suffix in traits[name].own_suffixes}
    if not target.is_cuda:
        return own
    own = {suffix: name for suffix, name in own.items() if traits[name].runs_on(target)}
    runtimes = [name for name in target.runtimes if name in traits]
    usable = [name for name in usable_runtimes(target) if name in traits] or runtimes
    fallback = {traits[name].source_suffix: name for name in reversed(runtimes)}
    return fallback | own | {traits[name].source_suffix: name for name in reversed(usable)}


def require_of_target(runtimes: tuple[str, ...], target: Target) -> None:
    """Raises UnknownNameError for runtimes that a GPU's networks don't run on: they would run on the processor."""
    for name in runtimes if target.is_cuda else ():
        if name not in target.runtimes:
            raise UnknownNameError(f"runtime of target {target.name}", name, target.runtimes)


def benchables(
    artifact: Path, runtimes: tuple[str, ...] | None, batch: int, target: Target
) -> tuple[list[Benchable], list[str]]:
    """What to measure of one artifact, and why it is not measured on the other runtimes asked for.

    Raises:
        InvalidValueError: it is nothing that could be run, or was compiled for another target.
        RunFolderError: a bundle, or what was compiled, is incomplete or changed.
    """
    if (artifact / COMPILED_FILE).is_file():
        return _of_compiled(artifact, artifact, read_compiled(artifact), runtimes, target)
    if artifact.is_dir():
        return _of_bundle(artifact, runtimes, batch, own_runtimes(target))
    known = [file for file in _described_beside(artifact) if runtimes is None or file.runtime in runtimes]
    if known:
        return _of_compiled(artifact, artifact.parent, known, runtimes, target)
    return _of_file(artifact, runtimes, own_runtimes(target))


def _described_beside(artifact: Path) -> list[CompiledFile]:
    """What its folder says of a file that ``compile`` wrote, and nobody replaced."""
    if not artifact.is_file() or not (artifact.parent / COMPILED_FILE).is_file():
        return []
    described = [file for file in read_compiled(artifact.parent) if file.name == artifact.name]
    return [file for file in described if file.sha256 == sha256_file(artifact)]


def _of_compiled(
    artifact: Path, folder: Path, files: Sequence[CompiledFile], runtimes: tuple[str, ...] | None, target: Target
) -> tuple[list[Benchable], list[str]]:
    found, skipped = [], []
    for file in files:
        name = str(artifact if len(files) == 1 else folder / file.name)
        if runtimes is not None and file.runtime not in runtimes:
            skipped.append(f"{name} on {', '.join(runtimes)}: it was compiled for {file.runtime}")
            continue
        if file.target != target.name:
            raise InvalidValueError(
                f"{name} was compiled for target {file.target}, not for {target.name}", fix=f"--target {file.target}"
            )
        if file.num_threads != target.num_threads:
            _log.warning("%s was compiled for %d threads, not %d", name, file.num_threads, target.num_threads)
        traits, path = traits_of(file.runtime), require_unchanged(folder, file)
        is_source = traits.opens_source(target) and path.suffix == traits.source_suffix  # which any batch is made of
        found.append(Benchable(name, file.runtime, path, is_compiled=not is_source))
    return found, skipped


def _of_file(
    artifact: Path, runtimes: tuple[str, ...] | None, own: Mapping[str, str]
) -> tuple[list[Benchable], list[str]]:
    traits = all_traits()
    known = {suffix for each in traits.values() for suffix in (each.source_suffix, *each.own_suffixes)}
    if artifact.suffix not in known or not artifact.is_file():
        *first, last = sorted(known)
        reason = "does not exist" if not artifact.exists() else f"is no {', '.join(first)} or {last} file"
        raise InvalidValueError(f"{artifact} {reason}", fix=_FIX)
    found, skipped = [], []
    for runtime in runtimes or ((own[artifact.suffix],) if artifact.suffix in own else ()):
        takes = traits[runtime].source_suffix
        if artifact.suffix == takes or artifact.suffix in traits[runtime].own_suffixes:
            is_compiled = artifact.suffix != takes
            found.append(Benchable(str(artifact), runtime, artifact, is_compiled))
        else:
            skipped.append(f"{artifact} on {runtime}: it takes {takes} files, not {artifact.suffix}")
    return found, skipped


def _of_bundle(
    folder: Path, runtimes: tuple[str, ...] | None, batch: int, own: Mapping[str, str]
) -> tuple[list[Benchable], list[str]]:
    inner = folder / "bundle"
    bundle = read_bundle(inner if (inner / "manifest.json").is_file() else folder)
    compiled = {name: path for name, path in bundle.files.items() if path != bundle.onnx_path}
    found, skipped = [], []
    for runtime in runtimes or dict.fromkeys([own[".onnx"], *compiled]):
        takes = traits_of(runtime).source_suffix
        if runtime in compiled and batch == 1:
            found.append(Benchable(str(folder), runtime, compiled[runtime], is_compiled=True))
        elif takes == ".onnx":
            found.append(Benchable(str(folder), runtime, bundle.onnx_path))
        else:
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
    backend = load_backend(item.runtime)
    if backend.TRAITS.opens_source(target):
        return source
    is_tunable = backend.TRAITS.is_tunable(target)
    tuning = Tuning(take_over_shipped_records(target.name, TableLibrary(profiles_dir))) if is_tunable else None
    return backend.compile(source, folder, target, tuning).path
