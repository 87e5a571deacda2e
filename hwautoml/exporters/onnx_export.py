"""Trained network to a self-describing, static ONNX file."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hwautoml import __version__
from hwautoml.core.artifact import Artifact
from hwautoml.core.space import Architecture
from hwautoml.core.storage import write_atomically
from hwautoml.core.task import Task
from hwautoml.errors import CompileError

if TYPE_CHECKING:
    import onnx
    import torch

INPUT_NAME = "images"
OUTPUT_NAME = "probabilities"
OPSET = 20

_log = logging.getLogger(__name__)


def export_onnx(
    network: torch.nn.Module,
    path: Path,
    *,
    resolution: int,
    channels: int,
    mean: Sequence[float],
    std: Sequence[float],
    task: Task,
    architecture: Architecture | Mapping[str, object],
    metadata: Mapping[str, str] | None = None,
) -> Artifact:
    """Write ``images`` uint8 (1, resolution, resolution, channels) to ``probabilities`` (1, num_outputs).

    The output has that name whatever the ``task``, whose ``activate`` ends the graph; its outputs' names are kept as
    ``classes`` in what the file says about itself.

    ``network`` maps normalised float (N, C, H, W) to logits; it is copied, and left as it is. ``mean`` and
    ``std`` are per channel in [0, 1] units. ``metadata`` is added to what the file says about itself. The same
    weights and arguments give the same bytes.

    Raises:
        CompileError: the network cannot be exported, or its output does not fit ``task``.
    """
    import torch

    from hwautoml.exporters.deployable import Deployable

    architecture_id, values = _identify(architecture)
    module = Deployable(_plain_copy(network), mean, std, task.activate).eval()
    example = torch.zeros(1, resolution, resolution, channels, dtype=torch.uint8)
    model = _export(module, example, architecture_id)
    facts = {
        **dict(metadata or {}),
        "task": task.name,
        "classes": json.dumps(list(task.outputs)),
        "architecture_id": architecture_id,
        "architecture": json.dumps(values),
        "mean": json.dumps(list(mean)),
        "std": json.dumps(list(std)),
        "hwautoml_version": __version__,
        "torch_version": torch.__version__,
    }
    model = _finish(model, facts)
    check_model(model, (1, resolution, resolution, channels), (1, task.num_outputs))
    write_atomically(path, model.SerializeToString(deterministic=True))
    return Artifact.of_file(path, "onnx", architecture_id)


def check_model(model: onnx.ModelProto, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> None:
    """The full ONNX check, and a static shape for every value.

    Raises:
        CompileError: any of it fails.
    """
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CompileError(f"the exported model is not valid ONNX: {error}") from error
    graph = model.graph
    shapes = {v.name: _static_shape(v) for v in (*graph.input, *graph.output, *graph.value_info)}
    for node in graph.node:
        for name in node.output:
            if name and shapes.get(name) is None:
                raise CompileError(
                    f"value {name!r} ({node.op_type}) of the exported model has no static shape",
                    fix="use modules whose output shape depends on the input's shape only",
                )
    found = (shapes[graph.input[0].name], shapes[graph.output[0].name])
    if found != (input_shape, output_shape):
        raise CompileError(
            f"the exported model maps {found[0]} to {found[1]}, expected {input_shape} to {output_shape}"
        )


def _identify(architecture: Architecture | Mapping[str, object]) -> tuple[str, dict[str, object]]:
    if isinstance(architecture, Architecture):
        return architecture.id, {"space": architecture.space, "values": architecture.as_dict}
    values = dict(architecture)
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12], values


def _plain_copy(network: torch.nn.Module) -> torch.nn.Module:
    """On the CPU, float32, in the default memory format, for inference."""
    import torch

    plain = copy.deepcopy(network).eval()
    plain.to("cpu", torch.float32, memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's own gap
    return plain


def _export(module: torch.nn.Module, example: torch.Tensor, architecture_id: str) -> onnx.ModelProto:
    import torch

    try:
        with _quiet_exporter(), torch.no_grad():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                external_data=False,
                verbose=False,
                optimize=True,
                opset_version=OPSET,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise CompileError(
            f"torch cannot export architecture {architecture_id} to ONNX: {reason[0]}",
            fix="use modules that torch.export can trace (no data-dependent control flow)",
        ) from error
    assert program is not None
    return program.model_proto


def _finish(model: onnx.ModelProto, facts: Mapping[str, str]) -> onnx.ModelProto:
    """Fill in shapes, describe the model, and drop what the exporter left for its own debugging."""
    import onnx

    model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    graph = model.graph
    for item in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        # Stack traces with paths of this machine: larger than a small network, and nobody else's business.
        del item.metadata_props[:]
        item.doc_string = ""
    left = sum(node.op_type == "BatchNormalization" for node in graph.node)
    if left:
        _log.warning("%d batch normalisations follow no convolution and stay in the exported model", left)
    model.producer_name = "hwautoml"
    model.producer_version = __version__
    onnx.helper.set_model_props(model, dict(sorted(facts.items())))
    return model


def _static_shape(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    if not value.type.tensor_type.HasField("shape"):
        return None
    dimensions = value.type.tensor_type.shape.dim
    if not all(dimension.HasField("dim_value") for dimension in dimensions):
        return None
    return tuple(dimension.dim_value for dimension in dimensions)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter warns of its own internals, and of torchvision, which nothing here uses."""
    import torch.onnx._internal.exporter._registration as registration

    logger = logging.getLogger(registration.__name__)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"`?isinstance\(treespec, LeafSpec\)", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(torch|onnxscript|onnx_ir|copyreg)")
            yield
    finally:
        logger.setLevel(level)
