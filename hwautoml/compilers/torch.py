"""PyTorch as a runtime: an exported program, its operators run one by one.

The artifact is the program itself, so what there is to know about files from elsewhere is in
`_torch_program`. On a CUDA target (not run on a GPU so far) its weights lie on the device.
"""

from __future__ import annotations

import importlib.metadata
import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hwautoml.compilers._files import missing_packages
from hwautoml.compilers._torch_model import TorchModel, device_of, require_device, set_num_threads
from hwautoml.compilers._torch_program import SUFFIX, open_program, read_program
from hwautoml.compilers.base import CompiledModel, ProgressCallback
from hwautoml.core.storage import replaced_atomically

if TYPE_CHECKING:
    from torch.export import ExportedProgram

RUNTIME = "torch"
SOURCE_SUFFIX = SUFFIX
FILE_NAME = "model.pt2"
#: Of how a program is run (`_torch_graph`): latencies from before it changed are of something else.
FUNCTIONS_VERSION = 1


def unavailable_reason() -> str | None:
    """None where torch is installed; else the command that installs it."""
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
    """Checks an exported program, moves it to the target's device and writes it into ``out_dir``.

    There is nothing to tune: ``tune_budget_sec``, ``records_path`` and ``seed`` have no effect here.

    Raises UnsupportedOperatorError for an ONNX file, CompileError for a program that is damaged or
    holds what `_torch_program` refuses, MissingDependencyError without the device.
    """
    started = time.perf_counter()
    set_num_threads(num_threads)
    program = open_program(source)
    device = device_of(tvm_target)
    require_device(device)
    content = program.content if device == "cpu" else _moved(read_program(source)[0], device)
    path = out_dir / FILE_NAME
    with replaced_atomically(path) as temporary:
        temporary.write_bytes(content)
    if on_progress is not None:
        on_progress(1, 1, "checked with torch")
    return CompiledModel(path, RUNTIME, program.num_operators, 0, (), time.perf_counter() - started, 0.0)


def open_model(path: Path, *, num_threads: int = 1) -> TorchModel:
    """The program's operators as a function, its weights on their device; CompileError when it is refused."""
    set_num_threads(num_threads)
    program = open_program(path)
    return TorchModel(program.function, program.description)


def _moved(program: ExportedProgram, device: str) -> bytes:
    import torch
    from torch.export.passes import move_to_device_pass

    buffer = io.BytesIO()
    torch.export.save(move_to_device_pass(program, device), buffer)
    return buffer.getvalue()
