"""Verbs ``targets`` and ``doctor``: what is known, and what this machine can do."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwautoml import __version__
from hwautoml.compilers import backend_names, load_backend
from hwautoml.compilers._toolchains import ARCHITECTURES, NVCC_FIX, compiler_name
from hwautoml.core import json_form
from hwautoml.core.resources import target_folders, user_config_folder
from hwautoml.core.storage import write_atomically
from hwautoml.core.target import Target, load_target, parse_target, target_names
from hwautoml.devices.machine import cuda_device, machine_conditions
from hwautoml.errors import InvalidValueError, MissingDependencyError


@dataclass(frozen=True)
class KnownTarget:
    """A target, which of its runtimes are installed here, and why nothing runs on it from this machine (None: it does).

    ``path`` is the file that was just written for a new one.
    """

    target: Target
    usable_runtimes: tuple[str, ...]
    reason: str | None
    path: Path | None = None

    @property
    def works_here(self) -> bool:
        return self.reason is None

    def to_json(self) -> dict[str, Any]:
        here = {"usable_runtimes": list(self.usable_runtimes), "works_here": self.works_here, "reason": self.reason}
        return {**json_form.to_json(self.target), **here, **({} if self.path is None else {"path": str(self.path)})}


@dataclass(frozen=True)
class Check:
    """Something that this machine has (``text`` says which) or lacks (``text`` says what brings it)."""

    name: str
    ok: bool
    text: str


@dataclass(frozen=True)
class Diagnosis:
    """``hwautoml`` is its version, ``machine`` the conditions that measurements are filed with."""

    hwautoml: str
    machine: Mapping[str, Any]
    checks: tuple[Check, ...]

    def to_json(self) -> dict[str, Any]:
        return json_form.to_json(self)


def targets(
    name: str | None = None, *, like: str | None = None, targets_dir: Path | None = None
) -> tuple[KnownTarget, ...]:
    """Every known target (or one), what it needs, and whether it works from this machine.

    With ``like``, ``name`` is a new one: its file is written first, a copy of that target's to start from.

    Raises:
        UnknownTargetError: no file describes ``name`` (or ``like``).
        InvalidValueError: a new name is none, or taken.
    """
    folders, path = target_folders(targets_dir), None
    if like is not None:
        path = _write_target(name or "", like, folders, targets_dir or user_config_folder() / "targets")
        folders = target_folders(path.parent)
    names = [name] if name is not None else target_names(folders)
    return tuple(_known(load_target(name, folders), path) for name in names)


def _known(target: Target, path: Path | None) -> KnownTarget:
    from hwautoml.pipeline.connecting import unavailable_reason
    from hwautoml.pipeline.tables.finding import usable_runtimes

    reason, usable = unavailable_reason(target), usable_runtimes(target)
    if reason is None and not usable:
        reason = f"none of its runtimes {', '.join(target.runtimes)} is installed here"
    return KnownTarget(target, usable, reason, path)


def _write_target(name: str, like: str, folders: list[Path], folder: Path) -> Path:
    """``folder / NAME.toml``, which describes a device like ``like`` until somebody fills in its figures."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InvalidValueError(f"a target's name consists of letters, digits, '.', '-' and '_', got {name!r}")
    if name in target_names(folders):
        raise InvalidValueError(f"target {name!r} exists already", fix=f"hwautoml targets show {name}, or another name")
    load_target(like, folders)
    source = next(found for found in (f / f"{like}.toml" for f in folders) if found.is_file())
    description = f'description = "{name} (figures of {like} so far)"'
    text = re.sub(r"(?m)^description\s*=.*$", lambda _: description, source.read_text(encoding="utf-8"), count=1)
    note = (
        f"# {name}: copied from {like}. Replace every figure by that of your device's datasheet, and the comments\n"
        "# below by where you found it. peak_gflops and bandwidth_gb_s are for estimates; [tvm] is what networks are\n"
        "# compiled for: wrong values there make libraries that don't load. See docs/latency_tables.md.\n"
    )
    parse_target(name, note + text, str(folder / f"{name}.toml"))
    return write_atomically(folder / f"{name}.toml", note + text)


def doctor() -> Diagnosis:
    """Torch, CUDA, ONNX Runtime providers, TVM targets, cross-compilers: what is here, and what brings the rest."""
    import onnxruntime
    import torch

    checks = [
        Check("python", True, sys.version.split()[0]),
        Check("torch", True, f"{torch.__version__}, {torch.get_num_threads()} threads"),
        Check("bfloat16 training", _has_bf16(), "native" if _has_bf16() else "float32 is used"),
        Check("CUDA device", cuda_device() is not None, cuda_device() or "none that NVIDIA's driver finds"),
        Check("torch on CUDA", torch.cuda.is_available(), f"torch {torch.__version__}"),
        Check("onnxruntime providers", True, ", ".join(onnxruntime.get_available_providers())),
    ]
    checks += [_runtime(name) for name in backend_names()]
    if load_backend("tvm").unavailable_reason() is None:
        checks.append(_tvm_targets())
    for architecture in (known for known in ARCHITECTURES if not known.is_host):
        found = compiler_name(architecture)
        checks.append(Check(f"cross-compiler {architecture.name}", found is not None, found or architecture.fix))
    nvcc = shutil.which("nvcc")
    checks.append(Check("CUDA machine code", nvcc is not None, nvcc or f"libraries will hold source; {NVCC_FIX}"))
    checks.append(Check("nni", importlib.util.find_spec("nni") is not None, _package_version("nni")))
    return Diagnosis(__version__, machine_conditions(), tuple(checks))


def _runtime(name: str) -> Check:
    try:
        backend = load_backend(name)
    except MissingDependencyError as error:  # another package's, which cannot be imported
        return Check(f"runtime {name}", False, str(error))
    reason = backend.unavailable_reason()
    return Check(f"runtime {name}", reason is None, backend.version() if reason is None else reason)


def _has_bf16() -> bool:
    from hwautoml.supernets.training import autocast_dtype, default_device

    return autocast_dtype(default_device()) is not None


def _package_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"pip install {name}"


def _tvm_targets() -> Check:
    import tvm

    names = [
        name
        for name in ("llvm", "cuda", "vulkan", "opencl", "metal")
        if tvm.get_global_func(f"target.build.{name}", True)
    ]
    return Check("tvm code generators", "llvm" in names, ", ".join(names))
