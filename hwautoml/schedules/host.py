"""Targets: from the mapping in a target file to a ``tvm.target.Target``."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tvm
from tvm.target import codegen

from hwautoml.errors import CompileError


def resolve_target(mapping: Mapping[str, Any], num_threads: int) -> tvm.target.Target:
    """The target a mapping describes; ``mcpu = "native"`` is this machine's processor.

    Raises CompileError where TVM does not know the target.
    """
    fields = dict(mapping)
    if fields.get("kind") == "llvm":
        fields["num-cores"] = num_threads
        if str(fields.get("mtriple", "")).endswith("hf"):
            # TVM would pass floats to libm's functions in integer registers, where those don't look.
            fields.setdefault("mfloat-abi", "hard")
    if fields.get("mcpu") == "native":
        fields["mcpu"] = codegen.llvm_get_system_cpu()
        missing = _masked_features(str(fields["mcpu"]))
        if missing:
            fields["mattr"] = [*fields.get("mattr", []), *(f"-{name}" for name in missing)]
    try:
        target = tvm.target.Target(fields)
    except (ValueError, TypeError, tvm.error.InternalError) as error:
        raise CompileError(f"TVM knows no target {dict(mapping)}: {error}") from error
    triple = str(fields.get("mtriple") or codegen.llvm_get_system_triple())
    if "mcpu" in fields and not codegen.llvm_is_valid_cpu(str(fields["mcpu"]), triple):
        raise CompileError(
            f"LLVM knows no processor {fields['mcpu']!r} for {triple}",
            fix='set mcpu to one that `llc -march=... -mcpu=help` lists, or to "native"',
        )
    return target


def record_key(target: tvm.target.Target, device: str | None = None) -> str:
    """What records of a target are filed under: they belong to one kind of device.

    ``device`` names a device that is not this machine; without it, a target that runs here is this machine's.
    """
    if device is None and is_host(target):
        device = _processor_name()
    return str(target) if device is None else f"{target} on {device}"


def record_key_on_board(target: tvm.target.Target, cpu: str | None) -> str:
    """As `record_key` for code that a board runs: one that cannot run here is known by its target alone."""
    is_like_this_one = cpu is None or not is_host(target) or _processor_name().startswith(cpu)
    return record_key(target, None if is_like_this_one else cpu)


def is_host(target: tvm.target.Target) -> bool:
    """Whether code for the target can be run (and so timed) in this process."""
    triple = target.attrs.get("mtriple")
    return triple is None or str(triple).split("-")[0] == _host_architecture()


def _host_architecture() -> str:
    return str(codegen.llvm_get_system_triple()).split("-")[0]


@functools.cache
def _masked_features(mcpu: str) -> tuple[str, ...]:
    """Vector features the processor's model has, but this (virtual) machine does not offer."""
    flags = _processor_flags()
    if not flags:
        return ()
    expected = codegen.llvm_get_cpu_features(tvm.target.Target({"kind": "llvm", "mcpu": mcpu}))
    return tuple(
        sorted(
            name
            for name in map(str, expected)
            if name.startswith(("avx", "fma")) and name.replace("-", "") not in flags
        )
    )


@functools.cache
def _processor_name() -> str:
    """As the operating system names it; the architecture where it does not."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    model = " ".join(fields[name] for name in ("model name", "cpu family", "model", "Model") if fields.get(name))
    return model or fields.get("CPU part") or _host_architecture()


def _processor_flags() -> frozenset[str]:
    """Features the operating system reports, spelt without separators; empty if unknown."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return frozenset()
    for line in path.read_text().splitlines():
        if line.startswith("flags"):
            return frozenset(line.split(":", 1)[1].replace("_", "").split())
    return frozenset()
