"""Verbs ``targets`` and ``doctor``: what is known, and what this machine can do."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hwautoml import __version__
from hwautoml.compilers import backend_names, load_backend
from hwautoml.compilers._toolchains import ARCHITECTURES, NVCC_FIX, compiler_name
from hwautoml.core.resources import target_folders, user_config_folder
from hwautoml.core.storage import write_atomically
from hwautoml.core.target import load_target, parse_target, target_names
from hwautoml.devices.machine import cuda_device, machine_conditions
from hwautoml.errors import InvalidValueError, MissingDependencyError


def targets(
    name: str | None = None, *, like: str | None = None, targets_dir: Path | None = None
) -> list[dict[str, Any]]:
    """Every known target (or one), what it needs, and whether it works from this machine.

    With ``like``, ``name`` is a new one: its file is written first, a copy of that target's to start from.

    Raises:
        UnknownTargetError: no file describes ``name`` (or ``like``).
        InvalidValueError: a new name is none, or taken.
    """
    from hwautoml.pipeline.tables.finding import unavailable_reason, usable_runtimes

    folders = target_folders(targets_dir)
    more: dict[str, Any] = {}
    if like is not None:
        path = _write_target(name or "", like, folders, targets_dir or user_config_folder() / "targets")
        more["path"] = str(path)
        folders = target_folders(path.parent)
    rows = []
    for found in (load_target(n, folders) for n in ([name] if name is not None else target_names(folders))):
        reason = unavailable_reason(found)
        usable = usable_runtimes(found)
        if reason is None and not usable:
            reason = f"none of its runtimes {', '.join(found.runtimes)} is installed here"
        here = {"usable_runtimes": usable, "works_here": reason is None, "reason": reason}
        rows.append({**asdict(found), **here, **more})
    return rows


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


def doctor() -> dict[str, Any]:
    """Torch, CUDA, ONNX Runtime providers, TVM targets, cross-compilers: what is here, and what brings the rest."""
    import onnxruntime
    import torch

    checks = [
        _check("python", True, sys.version.split()[0]),
        _check("torch", True, f"{torch.__version__}, {torch.get_num_threads()} threads"),
        _check("bfloat16 training", _has_bf16(), "native" if _has_bf16() else "float32 is used"),
        _check("CUDA device", cuda_device() is not None, cuda_device() or "none that NVIDIA's driver finds"),
        _check("torch on CUDA", torch.cuda.is_available(), f"torch {torch.__version__}"),
        _check("onnxruntime providers", True, ", ".join(onnxruntime.get_available_providers())),
    ]
    checks += [_runtime(name) for name in backend_names()]
    if load_backend("tvm").unavailable_reason() is None:
        checks.append(_tvm_targets())
    for architecture in (known for known in ARCHITECTURES if not known.is_host):
        found = compiler_name(architecture)
        checks.append(_check(f"cross-compiler {architecture.name}", found is not None, found or architecture.fix))
    nvcc = shutil.which("nvcc")
    checks.append(_check("CUDA machine code", nvcc is not None, nvcc or f"libraries will hold source; {NVCC_FIX}"))
    checks.append(_check("nni", importlib.util.find_spec("nni") is not None, _package_version("nni")))
    return {"hwautoml": __version__, "machine": machine_conditions(), "checks": checks}


def _runtime(name: str) -> dict[str, Any]:
    try:
        backend = load_backend(name)
    except MissingDependencyError as error:  # another package's, which cannot be imported
        return _check(f"runtime {name}", False, str(error))
    reason = backend.unavailable_reason()
    return _check(f"runtime {name}", reason is None, backend.version() if reason is None else reason)


def _check(name: str, is_ok: bool, text: str) -> dict[str, Any]:
    return {"name": name, "ok": is_ok, "text": text}


def _has_bf16() -> bool:
    from hwautoml.supernets.training import autocast_dtype, default_device

    return autocast_dtype(default_device()) is not None


def _package_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"pip install {name}"


def _tvm_targets() -> dict[str, Any]:
    import tvm

    names = [
        name
        for name in ("llvm", "cuda", "vulkan", "opencl", "metal")
        if tvm.get_global_func(f"target.build.{name}", True)
    ]
    return _check("tvm code generators", "llvm" in names, ", ".join(names))
