"""From TVM's object files to a shared library: for this machine, or for another architecture."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import tvm

from hwautoml.compilers._toolchains import Architecture, architecture_of, link_library, require_compiler

Linker = Callable[..., None]


def linker(target: tvm.target.Target) -> Linker | None:
    """What ``export_library`` should link with; None means TVM's default compiler.

    Raises CompileError for an architecture we know no toolchain for, and MissingDependencyError, naming
    every way out, when this machine has no linker for a known one.
    """
    triple = (target.host or target).attrs.get("mtriple")
    architecture = architecture_of(None if triple is None else str(triple))
    if architecture.is_host and shutil.which("g++"):
        return None
    require_compiler(architecture)
    return _linker_for(architecture)


def _linker_for(architecture: Architecture) -> Linker:
    def link(output: str, objects: list[str], options: list[str] | None = None, **_: object) -> None:
        link_library(architecture, Path(output), [*objects, *(options or [])])

    link.output_format = "so"  # type: ignore[attr-defined]  # export_library asks for it
    return link
