"""PyTorch as a runtime: an exported program, its operators run one by one.

The artifact is the program itself, so what there is to know about files from elsewhere is in
`_torch_program`. On a CUDA target (not run on a GPU so far) its weights lie on the device.
"""

from __future__ import annotations

import importlib.metadata
import io
import time
from pathlib import Path
from typing import TYPE_CHECKING

from hwautoml.compilers._torch_model import TorchModel, require_device, start_torch
from hwautoml.compilers._torch_program import SUFFIX, open_program, read_program
from hwautoml.compilers.base import (
    PLACES,
    CompiledModel,
    ProgressCallback,
    Traits,
    Tuning,
    missing_packages,
    place_of,
    require_no_tuning,
)
from hwautoml.core.storage import replaced_atomically
from hwautoml.core.target import Target

if TYPE_CHECKING:
    from torch.export import ExportedProgram

#: Of how a program is run (`_torch_graph`): latencies from before it changed are of something else.
FUNCTIONS_VERSION = 1
TRAITS = Traits(
    name="torch",
    source_suffix=SUFFIX,
    file_name="model.pt2",
    packages={"torch": "torch"},
    opens_source_on=("cpu",),  # for GPUs, compiling puts the weights on the device
    own_suffixes=(SUFFIX,),
    places=PLACES,
    precisions=("fp32", "fp16", "bf16"),
    reads_weights=True,
    code_version=f"+functions{FUNCTIONS_VERSION}",
)


def unavailable_reason() -> str | None:
    """None where torch is installed; else the command that installs it."""
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
    """Checks an exported program, moves it to the target's device and writes it into ``out``.

    Raises UnsupportedOperatorError for an ONNX file, CompileError for a program that is damaged or
    holds what `_torch_program` refuses, MissingDependencyError without the device.
    """
    require_no_tuning(TRAITS, target, tuning)
    started = time.perf_counter()
    start_torch(target.num_threads)
    program = open_program(source)
    device = place_of(target)
    require_device(device)
    content = program.content if device == "cpu" else _moved(read_program(source)[0], device)
    path = out / TRAITS.file_name
    with replaced_atomically(path) as temporary:
        temporary.write_bytes(content)
    if on_progress is not None:
        on_progress(1, 1, "checked with torch")
    return CompiledModel(path, TRAITS.name, program.num_operators, compile_sec=time.perf_counter() - started)


def open_model(path: Path, *, num_threads: int = 1) -> TorchModel:
    """The program's operators as a function, its weights on their device; CompileError when it is refused."""
    start_torch(num_threads)
    program = open_program(path)
    return TorchModel(program.function, program.description)


def _moved(program: ExportedProgram, device: str) -> bytes:
    import torch
    from torch.export.passes import move_to_device_pass

    buffer = io.BytesIO()
    torch.export.save(move_to_device_pass(program, device), buffer)
    return buffer.getvalue()
