"""What links libraries and programs for other architectures: a system cross-compiler, or the one in the ziglang wheel.

Nothing here imports TVM, so that ``hwautoml doctor`` can ask.
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hwautoml.core.children import module_command
from hwautoml.core.storage import full_disk_error
from hwautoml.errors import CompileError, MissingDependencyError

#: glibc that what zig links asks for: old enough for any supported distribution, new enough for TVM's own wheels.
ZIG_GLIBC = "2.28"
EDGE_EXTRA = "pip install 'hwautoml[edge]'"
NVCC_FIX = "install NVIDIA's CUDA toolkit and put its bin folder on PATH"
_LINK_TIMEOUT_SEC = 600.0  # the first C++ program makes zig build its own libc++


@dataclass(frozen=True)
class Architecture:
    """A Linux architecture, as the worlds of Debian, zig and LLVM call it.

    ``first_words``: with one of them an LLVM triple of this architecture begins, or ``uname -m`` is one of them.
    """

    name: str
    gnu_triple: str
    debian_package: str
    first_words: tuple[str, ...]

    @property
    def compiler(self) -> str:
        return f"{self.gnu_triple}-g++"

    @property
    def fix(self) -> str:
        return f"apt-get install {self.debian_package}, or {EDGE_EXTRA}"

    @property
    def is_host(self) -> bool:
        return platform.machine() in self.first_words


ARCHITECTURES = (
    Architecture("x86_64", "x86_64-linux-gnu", "g++-x86-64-linux-gnu", ("x86_64",)),
    Architecture("aarch64", "aarch64-linux-gnu", "g++-aarch64-linux-gnu", ("aarch64", "arm64")),
    Architecture(
        "armv7", "arm-linux-gnueabihf", "g++-arm-linux-gnueabihf", ("arm", "armv7", "armv7a", "armv7l", "armv8l")
    ),
    Architecture("riscv64", "riscv64-linux-gnu", "g++-riscv64-linux-gnu", ("riscv64",)),
)


def architecture_of(triple: str | None) -> Architecture:
    """The one that an LLVM triple names; this machine's for None.

    Raises CompileError where we have no toolchain for it.
    """
    word = platform.machine() if triple is None else triple.split("-")[0]
    for known in ARCHITECTURES:
        if word in known.first_words:
            return known
    names = ", ".join(known.name for known in ARCHITECTURES)
    raise CompileError(f"no toolchain is known for {triple or word}; known architectures: {names}")


def find_compiler(architecture: Architecture) -> tuple[str, ...] | None:
    """The command of a C++ compiler whose output runs on the architecture; None where this machine has none."""
    native = ("g++", "clang++", "c++") if architecture.is_host else ()
    for program in (*native, architecture.compiler):
        if shutil.which(program):
            return (program,)
    if importlib.util.find_spec("ziglang") is not None:
        # c++ only adds libc++, which takes zig two minutes to build the first time; libraries don't need it.
        return (*module_command("ziglang"), "c++", "-target", f"{architecture.gnu_triple}.{ZIG_GLIBC}")
    return None


def compiler_name(architecture: Architecture) -> str | None:
    """What ``find_compiler`` found, as a person calls it."""
    command = find_compiler(architecture)
    return None if command is None else ("ziglang" if "ziglang" in command else command[0])


def require_compiler(architecture: Architecture) -> tuple[str, ...]:
    """As ``find_compiler``; raises MissingDependencyError, naming every way out, instead of None."""
    command = find_compiler(architecture)
    if command is None:
        raise MissingDependencyError(
            f"no compiler on this machine can link for {architecture.name}: {architecture.compiler} is not on PATH "
            "and the ziglang package is not installed",
            fix=architecture.fix,
        )
    return command


def link_library(architecture: Architecture, output: Path, objects: Sequence[str | Path]) -> None:
    """A shared library from object files; CompileError with the linker's words when it fails."""
    command = ["cc" if word == "c++" else word for word in require_compiler(architecture)]
    run_compiler([*command, "-shared", "-fPIC", "-o", str(output), *map(str, objects)], architecture)


def run_compiler(command: Sequence[str], architecture: Architecture) -> None:
    """Raises CompileError with what the compiler said last."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LINK_TIMEOUT_SEC)
    except subprocess.TimeoutExpired as error:
        raise CompileError(f"{command[0]} did not finish for {architecture.name} within {error.timeout:g} s") from error
    if done.returncode != 0:
        full = full_disk_error(done.stderr)
        if full is not None:
            raise full
        raise CompileError(f"linking for {architecture.name} failed: {done.stderr.strip()[-800:]}")
