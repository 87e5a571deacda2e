"""The same network for another batch size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hwautoml.core.storage import write_atomically
from hwautoml.errors import CompileError, InvalidValueError

if TYPE_CHECKING:
    import onnx


def with_batch(path: Path, out: Path, batch: int) -> Path:
    """A file whose first extent of input and output is ``batch``: ``path`` itself where it is so already, else ``out``.

    Reshapes to a constant shape that begins with the former batch begin with the new one.

    Raises:
        CompileError: the file is no readable ONNX model, its batch cannot be changed, or extents other than the
            batch are open.
        InvalidValueError: ``batch`` is less than 1.
    """
    import onnx

    if batch < 1:
        raise InvalidValueError(f"batch must be at least 1, got {batch}")
    model = _load(path)
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if not inputs or not inputs[0].type.tensor_type.shape.dim:
        raise CompileError(f"{path} has no input with a batch", fix="export a network that maps images to results")
    _require_fixed(path, inputs)
    first = inputs[0].type.tensor_type.shape.dim[0]
    if first.dim_value == batch:
        return path
    former = first.dim_value
    for value in (*inputs, *graph.output):
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_value = batch
    del graph.value_info[:]
    for node in graph.node:
        if node.op_type == "Reshape" and node.input[1] in constants:
            _reshape_to(constants[node.input[1]], former, batch)
    try:
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise CompileError(
            f"{path} computes for a batch of {former or 'its own'} only: {str(error).splitlines()[0]}",
            fix=f"export it with a batch of {batch}, or with a dynamic one",
        ) from error
    write_atomically(out, model.SerializeToString(deterministic=True))
    return out


def _require_fixed(path: Path, inputs: list[onnx.ValueInfoProto]) -> None:
    for value in inputs:
        for axis, extent in enumerate(value.type.tensor_type.shape.dim):
            if axis > 0 and not extent.dim_value:
                name = extent.dim_param or "NAME"
                raise CompileError(
                    f"{path}: input {value.name} leaves extent {axis} ({name}) open, and only the batch may be",
                    fix=f"python -m onnxruntime.tools.make_dynamic_shape_fixed --dim_param {name} --dim_value SIZE "
                    f"{path} fixed.onnx",
                )


def _load(path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except (OSError, DecodeError, ValueError, onnx.checker.ValidationError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CompileError(f"{path} is not a readable ONNX model: {lines[0]}", fix="export the model again") from error
    return model


def _reshape_to(shape: onnx.TensorProto, former: int, batch: int) -> None:
    from onnx import numpy_helper

    extents = numpy_helper.to_array(shape).copy()
    if former and len(extents) > 1 and extents[0] == former:
        extents[0] = batch
        shape.CopyFrom(numpy_helper.from_array(extents, shape.name))
