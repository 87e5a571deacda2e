"""PyTorch as a runtime: an exported program, its operators run one by one.

The artifact is the program itself, so what there is to know about files from elsewhere is in
`_torch_program`. On a CUDA target (untested so far) its weights lie on the device.
"""

from __future__ import annotations

import importlib.metadata
import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hwautoml.compilers._files import missing_packages, replaced_atomically
from hwautoml.compilers._torch_model import TorchModel, device_of, require_device, set_num_threads
from hwautoml.compilers._torch_program import SUFFIX, describe, read_program
from hwautoml.compilers.base import CompiledModel, ProgressCallback

if TYPE_CHECKING:
    from torch.export import ExportedProgram

RUNTIME = "torch"
SOURCE_SUFFIX = SUFFIX
FILE_NAME = "model.pt2"


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
    program, content = read_program(source)
    device = device_of(tvm_target)
    require_device(device)
    if device != "cpu":
        program, content = _moved(program, device)
    path = out_dir / FILE_NAME
    with replaced_atomically(path) as temporary:
        temporary.write_bytes(content)
    if on_progress is not None:
        on_progress(1, 1, "checked with torch")
    num_operators = sum(node.op == "call_function" for node in program.graph.nodes)
    return CompiledModel(path, RUNTIME, num_operators, 0, (), time.perf_counter() - started, 0.0)


def open_model(path: Path, *, num_threads: int = 1) -> TorchModel:
    """The program as a module on its device; CompileError when it cannot be loaded or is refused."""
    set_num_threads(num_threads)
    program, _ = read_program(path)
    description = describe(program)
    require_device(description.device)
    # Guards would repeat, at every run, what `checked_input` checks once.
    return TorchModel(program.module(check_guards=False), description)


def _moved(program: ExportedProgram, device: str) -> tuple[ExportedProgram, bytes]:
    import torch
    from torch.export.passes import move_to_device_pass

    moved, buffer = move_to_device_pass(program, device), io.BytesIO()
    torch.export.save(moved, buffer)
    return moved, buffer.getvalue()
