"""ONNX's reference evaluator as a runtime: every operator in numpy, slowly and by the book.

What it is good for: to see what a file says, whatever a faster runtime makes of it. As an example it is a whole
runtime: it says what it is, compiles, opens, runs, and reports what it cannot do.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwautoml.compilers.base import (
    CompiledModel,
    ProgressCallback,
    Traits,
    Tuning,
    checked_input,
    first_line,
    missing_packages,
    require_no_tuning,
)
from hwautoml.core.storage import replaced_atomically
from hwautoml.core.target import Target
from hwautoml.errors import CompileError, UnsupportedOperatorError

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto
    from onnx.reference import ReferenceEvaluator

TRAITS = Traits(
    name="onnx-reference",
    source_suffix=".onnx",
    file_name="model.onnx",
    packages={"onnx": "onnx>=1.17"},
    opens_source_on=("cpu",),  # what it opens is the ONNX file itself: compiling checks it and copies it
    precisions=("fp32", "int8"),
    ships_as="model.onnx",  # in every bundle anyway
    opener=Path(__file__).with_name("onnx_reference_opener.py"),
    reads_weights=True,  # numpy packs nothing
)


def unavailable_reason() -> str | None:
    return missing_packages(TRAITS.packages)


def version() -> str:
    return importlib.metadata.version("onnx")


def start(num_threads: int = 1) -> None:
    """numpy's threads are set by whoever starts the process: workers have ``OPENBLAS_NUM_THREADS`` and its like."""
    import onnx.reference  # noqa: F401


def compile(
    source: Path,
    out: Path,
    target: Target,
    tuning: Tuning | None = None,
    *,
    on_progress: ProgressCallback | None = None,
) -> CompiledModel:
    """Checks that every operator is known, and copies the file into ``out``."""
    require_no_tuning(TRAITS, target, tuning)
    started = time.perf_counter()
    model = _read(source)
    _evaluator(model, source)
    path = out / TRAITS.file_name
    with replaced_atomically(path) as temporary:
        shutil.copyfile(source, temporary)
    if on_progress is not None:
        on_progress(1, 1, "checked with the reference evaluator")
    return CompiledModel(path, TRAITS.name, len(model.graph.node), compile_sec=time.perf_counter() - started)


def open_model(path: Path, *, num_threads: int = 1) -> ReferenceModel:
    model = _read(path)
    (result,) = model.graph.output
    given = _input_of(model, path)
    return ReferenceModel(_evaluator(model, path), given.name, _shape(given), _dtype(given), _shape(result))


@dataclass(frozen=True)
class ReferenceModel:
    """One input, one output."""

    evaluator: ReferenceEvaluator
    input_name: str
    input_shape: tuple[int, ...]
    input_dtype: str
    output_shape: tuple[int, ...]
    device: str = "cpu"

    def __call__(self, x: np.ndarray) -> np.ndarray:
        (result,) = self.evaluator.run(None, {self.input_name: checked_input(self, x)})
        return np.asarray(result)

    def bind(self, x: np.ndarray) -> Callable[[], None]:
        inputs = {self.input_name: checked_input(self, x)}

        def run_once() -> None:
            self.evaluator.run(None, inputs)

        return run_once


def _read(path: Path) -> ModelProto:
    """Whatever is wrong with a file is a CompileError that names it; anything else would blame the runtime."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except (OSError, DecodeError, onnx.checker.ValidationError, ValueError) as error:
        raise CompileError(f"{path} is not a readable ONNX model: {first_line(error)}") from error
    return model


def _evaluator(model: ModelProto, path: Path) -> ReferenceEvaluator:
    from onnx.reference import ReferenceEvaluator

    try:
        return ReferenceEvaluator(model)
    except (NotImplementedError, KeyError) as error:
        raise UnsupportedOperatorError(
            f"the reference evaluator cannot run {path}: {first_line(error)}", fix="--runtime onnxruntime"
        ) from error


def _input_of(model: ModelProto, path: Path) -> ValueInfoProto:
    weights = {tensor.name for tensor in model.graph.initializer}
    given = [value for value in model.graph.input if value.name not in weights]
    if len(given) != 1 or len(model.graph.output) != 1:
        found = f"{len(given)} inputs and {len(model.graph.output)} outputs"
        raise CompileError(f"{path} has {found}; it should have one each")
    return given[0]


def _shape(value: ValueInfoProto) -> tuple[int, ...]:
    """-1 where an extent has a name instead of a number."""
    extents = value.type.tensor_type.shape.dim
    return tuple(extent.dim_value if extent.HasField("dim_value") else -1 for extent in extents)


def _dtype(value: ValueInfoProto) -> str:
    from onnx.helper import tensor_dtype_to_np_dtype

    return str(tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
