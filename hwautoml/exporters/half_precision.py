"""Networks that compute in sixteen bits, and take and give what they did in float32: for GPUs.

A rounding to sixteen bits is off by up to half an epsilon (2**-10 of the value in fp16, 2**-7 in bf16). What a deep
network computes has been rounded about a hundred times, its weights and its maps, independently: ten times half an
epsilon in the end. Twice that is the tolerance of every comparison with float32, relative to the outputs' scale.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

from hwautoml.core.artifact import Artifact
from hwautoml.core.storage import write_atomically
from hwautoml.errors import CompileError, InvalidValueError
from hwautoml.exporters.batching import _load

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from hwautoml.exporters.deployable import Deployable

#: Precisions of sixteen bits, with torch's name for them.
DTYPES = {"fp16": "float16", "bf16": "bfloat16"}
EPSILON = {"fp16": 2.0**-10, "bf16": 2.0**-7}
TOLERANCE = {precision: 10 * epsilon for precision, epsilon in EPSILON.items()}
#: Exponentials and variances leave fp16's range (65504), or lose their digits.
KEPT_IN_FLOAT32 = (
    "Softmax",
    "LogSoftmax",
    "LayerNormalization",
    "InstanceNormalization",
    "GroupNormalization",
    "LpNormalization",
)


def half_onnx(path: Path, out: Path, *, keep_io: bool = True) -> Artifact:
    """Write the fp16 form of the model in ``path`` to ``out``, atomically; with ``keep_io`` it takes and gives float32.

    By ONNX Runtime's own converter, with its list of operators that stay in float32 and `KEPT_IN_FLOAT32`. Values
    beyond fp16's range are cut off, which a comparison with the source shows; inputs of integers stay as they are.

    Raises:
        CompileError: the model cannot be read, or not be converted.
        InvalidValueError: it is quantised.
    """
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    model = _load(path)
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise InvalidValueError(
            f"{path} is quantised to int8 and has no fp16 form", fix="convert the float32 file it was made from"
        )
    try:
        converted = convert_float_to_float16(
            model, keep_io_types=keep_io, op_block_list=[*DEFAULT_OP_BLOCK_LIST, *KEPT_IN_FLOAT32]
        )
        _drop_round_trips(converted.graph)
        sorter = ONNXModel(converted)  # casts were appended
        sorter.topological_sort()
        _check(sorter.model)
    except (ValueError, KeyError, AssertionError, RuntimeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CompileError(
            f"{path} cannot be converted to fp16: {lines[0]}", fix="leave --precision out for this model"
        ) from error
    sorter.model.metadata_props.add(key="precision", value="fp16")
    write_atomically(out, sorter.model.SerializeToString(deterministic=True))
    return Artifact.of_file(out, "onnx", "")


def _drop_round_trips(graph: onnx.GraphProto) -> None:
    """From float32 to fp16 and back, around operators that stay in float32: two launches that lose digits."""
    from onnx import TensorProto

    casts = {node.output[0]: node for node in graph.node if node.op_type == "Cast"}
    for node in casts.values():
        before = casts.get(node.input[0])
        if before is not None and (_to(before), _to(node)) == (TensorProto.FLOAT16, TensorProto.FLOAT):
            types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input)}
            if types.get(before.input[0]) == TensorProto.FLOAT:
                node.op_type = "Identity"
                node.input[0] = before.input[0]
                del node.attribute[:]
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [node for node in graph.node if node.op_type != "Cast" or node.output[0] in used]
    del graph.node[:]
    graph.node.extend(kept)


def _to(cast: onnx.NodeProto) -> int:
    return next(attribute.i for attribute in cast.attribute if attribute.name == "to")


def _check(model: onnx.ModelProto) -> None:
    """Raises ValueError where types no longer fit."""
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(str(error)) from error


def is_half_onnx(path: Path) -> bool:
    """Whether the file computes in fp16 anywhere."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    return any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.initializer)


def require_onnx_precision(precision: str) -> None:
    """Raises InvalidValueError for a precision that no ONNX file is converted to."""
    if precision == "bf16":
        raise InvalidValueError(
            "ONNX files are not compiled in bf16: convolutions take bfloat16 from opset 22 on only, and ONNX Runtime's "
            "CUDA kernels for pooling never do",
            fix="--precision fp16; in bf16 torch runs programs, from hwautoml.exporters.half_deployable",
        )


def half_module(network: nn.Module, precision: str) -> nn.Module:
    """A copy of the network that computes in ``fp16`` or ``bf16``, and takes and gives that.

    Batch normalisation keeps its statistics in float32, which torch computes with in either precision.

    Raises:
        InvalidValueError: another precision.
    """
    import torch

    half = copy.deepcopy(network).to(getattr(torch, _dtype(precision)))
    for module in half.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.float()
    return half


def half_deployable(module: Deployable, precision: str) -> Deployable:
    """A copy whose network computes in ``fp16`` or ``bf16``, between normalisation and softmax in float32."""
    import torch

    class Half(torch.nn.Module):
        def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
            super().__init__()
            self.network, self.dtype = network, dtype

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network(x.to(self.dtype)).float()

    changed = copy.deepcopy(module)
    changed.network = Half(half_module(module.network, precision), getattr(torch, _dtype(precision)))
    return changed


def _dtype(precision: str) -> str:
    if precision not in DTYPES:
        raise InvalidValueError(f"precision must be one of {', '.join(DTYPES)}, got {precision!r}")
    return DTYPES[precision]
