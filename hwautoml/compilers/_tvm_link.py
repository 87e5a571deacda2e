"""From object files to a shared library: for this machine, or for another architecture."""

from __future__ import annotations

import importlib.util
import logging
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable

from tvm.support import cc

from hwautoml.errors import CompileError

_LOGGER = logging.getLogger(__name__)
#: glibc that libraries linked with zig ask for: old enough for any supported distribution.
_ZIG_GLIBC = "2.28"
_DEBIAN_PACKAGES = {"aarch64": "g++-aarch64-linux-gnu", "arm": "g++-arm-linux-gnueabihf"}

Linker = Callable[..., None]


def linker(triple: str | None) -> Linker | None:
    """What ``export_library`` should link with; None means TVM's default compiler.

    Raises CompileError, naming every way out, when this machine has no fitting linker.
    """
    if triple is None or triple.split("-")[0] == platform.machine():
        if any(shutil.which(name) for name in ("g++", "clang++", "c++")):
            return None
        return _zig_or_error(f"{platform.machine()}-linux-gnu", "g++", "g++")
    compiler = f"{triple}-g++"
    if shutil.which(compiler):
        return cc.cross_compiler(compiler)
    architecture = triple.split("-")[0]
    package = _DEBIAN_PACKAGES.get(architecture, f"a g++ for {triple}")
    return _zig_or_error(triple, compiler, package)


def _zig_or_error(triple: str, compiler: str, package: str) -> Linker:
    if importlib.util.find_spec("ziglang") is None:
        raise CompileError(
            f"no compiler on this machine can link for {triple}: {compiler} is not on PATH "
            "and the ziglang package is not installed",
            fix=f"apt install {package}, or: pip install ziglang",
        )
    return _zig(triple)


def _zig(triple: str) -> Linker:
    """Links with the C compiler inside the ziglang wheel (its C++ one builds libc++ first: 100 s)."""

    def link(
        output: str, objects: list[str], options: list[str] | None = None, **_: object
    ) -> None:
        command = [sys.executable, "-m", "ziglang", "cc", "-target", f"{triple}.{_ZIG_GLIBC}"]
        command += ["-shared", "-fPIC", "-o", output, *objects, *(options or [])]
        _LOGGER.debug("linking: %s", " ".join(command))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CompileError(f"zig could not link for {triple}: {done.stderr.strip()[-500:]}")

    link.output_format = "so"  # type: ignore[attr-defined]  # export_library asks for it
    return link
