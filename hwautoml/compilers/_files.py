"""Reading models and writing results, for all backends."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hwautoml.errors import CompileError

if TYPE_CHECKING:
    import onnx


def read_onnx(path: Path) -> onnx.ModelProto:
    """The checked model in a file, its external data included.

    Raises CompileError, naming the file, when it is missing, truncated or not a valid model.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except (OSError, DecodeError, onnx.checker.ValidationError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CompileError(f"{path} is not a readable ONNX model: {lines[0]}", fix="export the model again") from error
    weights = {tensor.name for tensor in model.graph.initializer}  # files of old name them among the inputs
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise CompileError(
            f"{path} has {len(inputs)} inputs and {len(model.graph.output)} outputs; one of each is expected",
            fix="export the part that maps one array to another: onnx.utils.extract_model(...)",
        )
    if len(model.graph.input) != 1:
        model.ir_version = max(model.ir_version, 4)  # before, all weights had to be inputs
        del model.graph.input[:]
        model.graph.input.extend(inputs)
    return model


@contextmanager
def unique_name(path: Path) -> Iterator[Path]:
    """A second name of the file, while it is being loaded.

    The system's loader knows libraries by their path, and at one from which another was loaded before, it
    returns that other one. Where the folder cannot be written to, files are not replaced either.
    """
    link = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        link.hardlink_to(path)
    except OSError:
        yield path
        return
    try:
        yield link
    finally:
        link.unlink()
