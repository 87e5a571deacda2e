"""AOTInductor: an exported program compiled ahead of time into a package with a shared library.

C++ (on a CUDA target, not run on a GPU so far: Triton) is generated, compiled here, and run without Python.
A package is native code: opening one runs it, as with any library, so open only those you made
or whose hash you trust. The programs it is made from are checked by `_torch_program`.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hwautoml.compilers._files import missing_packages
from hwautoml.compilers._torch_model import Description, TorchModel, device_of, require_device, set_num_threads
from hwautoml.compilers._torch_program import SUFFIX, read_program
from hwautoml.compilers.base import CompiledModel, ProgressCallback
from hwautoml.core.storage import replaced_atomically
from hwautoml.errors import CompileError, MissingDependencyError

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

RUNTIME = "torch-inductor"
SOURCE_SUFFIX = SUFFIX
FILE_NAME = "model_inductor.pt2"
_DESCRIPTION = "hwautoml"  # key in the package's metadata


def unavailable_reason() -> str | None:
    """None where torch and a C++ compiler are installed; else what is missing and what installs it."""
    compiler = os.environ.get("CXX", "g++")  # what inductor looks for
    if shutil.which(compiler) is None:
        return (
            f"torch-inductor needs a C++ compiler, and {compiler} is not on PATH; "
            "run: apt install g++ (or name another in CXX), or use the runtime torch"
        )
    return missing_packages({"torch": "torch"})


def version() -> str:
    """The installed version of torch, with its build (``+cpu``, ``+cu130``)."""
    return importlib.metadata.version("torch")


def start(num_threads: int = 1) -> None:
    """Imports torch."""
    set_num_threads(num_threads)


def compile_model(
    source: Path,
    out_dir: Path,
    *,
    tvm_target: Mapping[str, object],
    num_threads: int = 1,
    tune_budget_sec: float = 0.0,
    records_path: Path | None = None,
    on_progress: ProgressCallback | None = None,
    seed: int = 0,
) -> CompiledModel:
    """Compiles an exported program for the target's device; about 10 s for a network.

    ``num_threads`` is compiled in. Inductor does its own tuning, within its compile time: ``tune_budget_sec``,
    ``records_path`` and ``seed`` have no effect here. Always for the machine that compiles.

    Raises UnsupportedOperatorError for an ONNX file, CompileError for a program that is refused or cannot be
    compiled, MissingDependencyError without a compiler or the device.
    """
    import torch
    from torch._inductor import aoti_compile_and_package

    reason = unavailable_reason()
    if reason is not None:
        raise MissingDependencyError(reason)
    started = time.perf_counter()
    program, description = read_program(source)
    device = device_of(tvm_target)
    require_device(device)
    description = replace(description, device=device)
    program = _ready_to_compile(program, description)
    if on_progress is not None:
        on_progress(0, 1, "building")
    path, threads_before = out_dir / FILE_NAME, torch.get_num_threads()
    set_num_threads(num_threads)
    configs = {
        "freezing": True,  # folds batch normalisation and packs weights
        "aot_inductor.metadata": {_DESCRIPTION: json.dumps(asdict(description))},
    }
    try:
        with replaced_atomically(path) as temporary, torch.no_grad():
            aoti_compile_and_package(program, package_path=str(temporary), inductor_configs=configs)
    except (RuntimeError, NotImplementedError, OSError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CompileError(
            f"AOTInductor could not compile {source}: {lines[0]}", fix="use the runtime torch, onnxruntime or tvm"
        ) from error
    finally:
        torch.set_num_threads(threads_before)
    num_operators = sum(node.op == "call_function" for node in program.graph.nodes)
    return CompiledModel(path, RUNTIME, num_operators, 0, (), time.perf_counter() - started, 0.0)


def open_model(path: Path, *, num_threads: int = 1) -> TorchModel:
    """The package's library in this process (its code runs); CompileError when it cannot be loaded."""
    from torch._inductor import aoti_load_package

    set_num_threads(num_threads)
    try:
        package = aoti_load_package(str(path))
        description = _description(json.loads(package.get_metadata()[_DESCRIPTION]))
    except (RuntimeError, OSError, KeyError, ValueError, TypeError, AssertionError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CompileError(
            f"{path} is not a package compiled by hwautoml: {lines[0]}", fix="compile the model again"
        ) from error
    require_device(description.device)
    return TorchModel(package, description)


def _ready_to_compile(program: ExportedProgram, known: Description) -> ExportedProgram:
    """On the device, with the example input that compiling wants and our files leave out."""
    import torch
    from torch.export.passes import move_to_device_pass

    if known.device != "cpu":
        program = move_to_device_pass(program, known.device)
    dtype = getattr(torch, known.input_dtype)
    example: torch.Tensor = torch.zeros(known.input_shape, dtype=dtype, device=known.device)
    program.example_inputs = ((example,), {})
    return program


def _description(data: Mapping[str, object]) -> Description:
    shapes = {name: tuple(data[name]) for name in ("input_shape", "output_shape")}  # type: ignore[arg-type]
    return Description(**{**data, **shapes})  # type: ignore[arg-type]
