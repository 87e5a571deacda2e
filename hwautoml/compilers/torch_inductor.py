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
from typing import TYPE_CHECKING, Any

from hwautoml.compilers._torch_model import Description, TorchModel, require_device, start_torch
from hwautoml.compilers._torch_program import SUFFIX, read_program
from hwautoml.compilers.base import (
    PLACES,
    CompiledModel,
    ProgressCallback,
    Traits,
    Tuning,
    first_line,
    missing_packages,
    place_of,
    require_no_tuning,
)
from hwautoml.core.storage import replaced_atomically
from hwautoml.core.target import Target
from hwautoml.errors import CompileError, MissingDependencyError

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

TRAITS = Traits(
    name="torch-inductor",
    source_suffix=SUFFIX,
    file_name="model_inductor.pt2",
    packages={"torch": "torch"},
    places=PLACES,
    precisions=("fp32", "fp16", "bf16"),
)
_DESCRIPTION = "hwautoml"  # key in the package's metadata


def unavailable_reason() -> str | None:
    """None where torch and a C++ compiler are installed; else what is missing and what installs it."""
    compiler = os.environ.get("CXX", "g++")  # what inductor looks for
    if shutil.which(compiler) is None:
        return (
            f"torch-inductor needs a C++ compiler, and {compiler} is not on PATH; "
            "run: apt install g++ (or name another in CXX), or use the runtime torch"
        )
    return missing_packages(TRAITS.packages)


def version() -> str:
    """The installed version of torch, with its build (``+cpu``, ``+cu130``)."""
    return importlib.metadata.version("torch")


def start(num_threads: int = 1) -> None:
    """Imports torch."""
    start_torch(num_threads)


def compile(
    source: Path,
    out: Path,
    target: Target,
    tuning: Tuning | None = None,
    *,
    on_progress: ProgressCallback | None = None,
) -> CompiledModel:
    """Compiles an exported program for the target's device; about 10 s for a network.

    The number of threads is compiled in. Inductor does its own tuning, within its compile time. Always for the machine
    that compiles.

    Raises UnsupportedOperatorError for an ONNX file, CompileError for a program that is refused or cannot be
    compiled, MissingDependencyError without a compiler or the device.
    """
    import torch
    from torch._inductor import aoti_compile_and_package

    require_no_tuning(TRAITS, target, tuning)
    reason = unavailable_reason()
    if reason is not None:
        raise MissingDependencyError(reason)
    started = time.perf_counter()
    program, description = read_program(source)
    device = place_of(target)
    require_device(device)
    description = replace(description, device=device)
    program = _ready_to_compile(program, description)
    if on_progress is not None:
        on_progress(0, 1, "building")
    path, threads_before = out / TRAITS.file_name, torch.get_num_threads()
    start_torch(target.num_threads)
    configs = {
        "freezing": True,  # folds batch normalisation and packs weights
        "aot_inductor.metadata": {_DESCRIPTION: json.dumps(asdict(description))},
    }
    try:
        with replaced_atomically(path) as temporary, torch.no_grad():
            aoti_compile_and_package(program, package_path=str(temporary), inductor_configs=configs)
    except (RuntimeError, NotImplementedError, OSError) as error:
        raise CompileError(
            f"AOTInductor could not compile {source}: {first_line(error)}",
            fix="use the runtime torch, onnxruntime or tvm",
        ) from error
    finally:
        torch.set_num_threads(threads_before)
    num_operators = sum(node.op == "call_function" for node in program.graph.nodes)
    return CompiledModel(path, TRAITS.name, num_operators, compile_sec=time.perf_counter() - started)


def open_model(path: Path, *, num_threads: int = 1) -> TorchModel:
    """The package's library in this process (its code runs); CompileError when it cannot be loaded."""
    from torch._inductor import aoti_load_package

    start_torch(num_threads)
    try:
        package = aoti_load_package(str(path))
        description = _description(json.loads(package.get_metadata()[_DESCRIPTION]))
    except (RuntimeError, OSError, KeyError, ValueError, TypeError, AssertionError) as error:
        raise CompileError(
            f"{path} is not a package compiled by hwautoml: {first_line(error)}", fix="compile the model again"
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


def _description(data: Mapping[str, Any]) -> Description:
    shapes = {name: tuple(data[name]) for name in ("input_shape", "output_shape")}
    return Description(**{**data, **shapes})
