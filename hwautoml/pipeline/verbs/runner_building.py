"""Verb ``build``: the C++ runner of bundles, for this machine or for another architecture."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from hwautoml.bundles.tvm_runtime import WITH_WHEELS, TvmRuntime, download_command, unpack_tvm_runtime
from hwautoml.compilers._toolchains import (
    Architecture,
    architecture_of,
    compiler_name,
    require_compiler,
    run_compiler,
)
from hwautoml.core import json_form
from hwautoml.core.progress import OnProgress, Progress, silent
from hwautoml.core.resources import target_folders
from hwautoml.core.storage import folder_beside
from hwautoml.core.target import load_target
from hwautoml.errors import InvalidValueError, MissingDependencyError, RunFolderError

PROGRAM = "hwautoml_runner"
SOURCES = ("hwautoml.cpp", "image.cpp", "runner.cpp")


@dataclass(frozen=True)
class BuildResult:
    """``path`` is the program; it runs where all ``files`` lie beside it."""

    path: str
    target: str
    architecture: str
    compiler: str | None
    size_mb: float
    files: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return json_form.to_json(self)


def build(
    target: str = "cpu",
    *,
    wheels: Path | None = None,
    out: Path | None = None,
    targets_dir: Path | None = None,
    on_progress: OnProgress = silent,
) -> BuildResult:
    """Build the C++ runner for a target: a folder with a program and TVM's runtime, which runs any bundle for it.

    ``wheels`` is a folder with the wheels of apache-tvm and apache-tvm-ffi for the target's architecture; for
    this machine's own the installed ones are taken. ``out`` (default: ``runner-TARGET``) must not exist.

    Raises:
        MissingDependencyError: no compiler for the architecture, or no wheels; the fix is the command.
        CompileError: the compiler failed.
    """
    found = load_target(target, target_folders(targets_dir))
    if found.tvm.get("kind") != "llvm":
        raise InvalidValueError(f"the C++ runner runs on processors, and {found.name} is a target for GPUs")
    triple = found.tvm.get("mtriple")
    architecture = architecture_of(None if triple is None else str(triple))
    folder = out or Path(f"runner-{found.name}")
    if folder.exists():
        raise RunFolderError(f"{folder} exists already", fix="name another --out, or remove it")
    compiler = require_compiler(architecture)
    with folder_beside(folder) as building:
        on_progress(Progress("build", 0.1, "unpacking TVM's runtime"))
        runtime = _runtime(architecture, wheels, building / "tvm")
        on_progress(Progress("build", 0.2, f"compiling for {architecture.name} (zig builds its libraries first, once)"))
        finished = building / "finished"
        _compile(compiler, architecture, runtime, finished)
        finished.rename(folder)  # in one step: nothing half-built is left
    on_progress(Progress("build", 1.0))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return BuildResult(
        path=str(folder / PROGRAM),
        target=found.name,
        architecture=architecture.name,
        compiler=compiler_name(architecture),
        size_mb=sum(path.stat().st_size for path in files) / 2**20,
        files=tuple(str(path) for path in files),
    )


def _runtime(architecture: Architecture, wheels: Path | None, folder: Path) -> TvmRuntime:
    if wheels is not None:
        return unpack_tvm_runtime(wheels, folder, architecture.name)
    if architecture.is_host:
        roots = [_package_folder(name) for name in ("tvm", "tvm_ffi")]
        libraries = (roots[0] / "lib" / "libtvm_runtime.so", roots[1] / "lib" / "libtvm_ffi.so")
        return TvmRuntime(tuple(root / "include" for root in roots), libraries)
    if architecture.name not in WITH_WHEELS:
        raise MissingDependencyError(
            f"there are no wheels of TVM for {architecture.name}",
            fix="build TVM's runtime from its sources, and the runner with the bundle's cpp/CMakeLists.txt, which "
            "takes TVM_ROOT and TVM_FFI_ROOT; see docs/cross_compiling.md",
        )
    raise MissingDependencyError(
        f"the runner needs TVM's runtime for {architecture.name}, and --wheels was not given",
        fix=f"{download_command(architecture.name)}, then: --wheels wheels",
    )


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(f"{name} is not installed", fix="pip install apache-tvm apache-tvm-ffi")
    return Path(spec.submodule_search_locations[0])


def _compile(compiler: tuple[str, ...], architecture: Architecture, runtime: TvmRuntime, out: Path) -> None:
    libraries = out / "lib"
    libraries.mkdir(parents=True)
    for library in runtime.libraries:
        shutil.copy2(library, libraries)
    includes = [word for folder in runtime.include_folders for word in ("-isystem", str(folder))]
    linked = [str(libraries / library.name) for library in runtime.libraries]
    with resources.as_file(resources.files("hwautoml.bundles") / "runner" / "cpp") as folder:
        sources = [f"-I{folder}", *(str(folder / name) for name in SOURCES)]
        # A model's library finds TVM in the process, though the runner itself may use none of libtvm_runtime.
        link = ["-Wl,--no-as-needed", *linked, "-Wl,-rpath,$ORIGIN/lib"]
        run_compiler(
            [*compiler, "-std=c++17", "-O2", "-s", *includes, *sources, "-o", str(out / PROGRAM), *link], architecture
        )
