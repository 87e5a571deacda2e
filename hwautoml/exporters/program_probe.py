"""A quick export to a program for micro-benchmarks, where only the shape of the computation matters."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwautoml.core.artifact import Artifact
from hwautoml.core.storage import write_atomically
from hwautoml.errors import CompileError

if TYPE_CHECKING:
    import torch

_INPUT = "x"
_STRIDED, _POSITIONAL, _KEYWORD = 7, 1, 2
_LEAF: dict[str, object] = {"type": None, "context": None, "children_spec": []}
_SCALARS = {bool: "as_bool", int: "as_int", float: "as_float", str: "as_string"}


def export_program_probe(
    network: torch.nn.Module, path: Path, input_shape: tuple[int, ...], *, dtype: str = "float32"
) -> Artifact:
    """Write ``network``, ``input_shape`` of ``dtype`` to whatever it gives, as a .pt2 archive; weights as they are.

    About 0.02 s for a whole network, a thirtieth of ``export_program``: the network runs once, and the operators that
    ``torch.export`` would trace are written down as they are called. The same operators with the same arguments in the
    same order (a test compares them), in an archive that torch reads too. For measuring only; nothing is checked.

    Raises:
        CompileError: the network cannot run, or calls what is no operator on tensors.
    """
    import torch

    was_training = network.training
    network.eval()
    try:
        content = _archive(network, torch.zeros(input_shape, dtype=getattr(torch, dtype)))
    except RuntimeError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CompileError(f"torch cannot export {type(network).__name__} for measuring: {lines[0]}") from error
    finally:
        network.train(was_training)
    write_atomically(path, content)
    return Artifact.of_file(path, "torch-program", "")


@dataclass(frozen=True)
class _Call:
    """One operator, as it was called."""

    operator: torch._ops.OpOverload
    args: Sequence[Any]
    named: Mapping[str, Any]
    result: Any


def _recorded(network: torch.nn.Module, example: torch.Tensor) -> tuple[list[_Call], torch.Tensor]:
    """Calls at the level at which ``torch.export`` traces: before autograd, and before composite operators dissolve."""
    import torch
    from torch._dispatch.python import enable_pre_dispatch, enable_python_dispatcher
    from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode, PythonKeyTracer

    calls = []

    class Recording(ProxyTorchDispatchMode):  # torch admits no other kind at this level
        def __torch_dispatch__(
            self, operator: Any, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            result = operator(*args, **(kwargs or {}))
            calls.append(_Call(operator, args, kwargs or {}, result))
            return result

    # cuDNN's flag is an argument of batch normalisation; torch.export traces without it.
    with (
        torch.no_grad(),
        torch.backends.cudnn.flags(enabled=False),
        enable_python_dispatcher(),
        enable_pre_dispatch(),
        Recording(PythonKeyTracer(), "real", pre_dispatch=True),
    ):
        output = network(example)
    if not isinstance(output, torch.Tensor):
        raise CompileError(f"{type(network).__name__} gives a {type(output).__name__}; one tensor is expected")
    return calls, output


def _archive(network: torch.nn.Module, example: torch.Tensor) -> bytes:
    calls, output = _recorded(network, example)
    weights = dict(network.named_parameters()) | dict(network.named_buffers())
    for name, weight in weights.items():
        if not weight.is_contiguous():
            raise CompileError(f"the weight {name} is not contiguous", fix="call contiguous() on it")
    names = {id(weight): f"w_{number}" for number, weight in enumerate(weights.values())}
    specs = [_spec(name, names[id(weight)], weight) for name, weight in weights.items()]
    tensors = {names[id(weight)]: _meta(weight) for weight in weights.values()} | {_INPUT: _meta(example)}
    names[id(example)] = _INPUT
    inputs = [_tensor(name) for name in tensors]
    nodes = [_node(call, f"v_{number}", names, tensors) for number, call in enumerate(calls)]
    graph = {
        "inputs": inputs,
        "outputs": [_tensor(names[id(output)])],
        "nodes": nodes,
        "tensor_values": tensors,
        "sym_int_values": {},
        "sym_bool_values": {},
        "is_single_tensor_return": False,
        "custom_obj_values": {},
        "sym_float_values": {},
    }
    signature = {
        "input_specs": [*specs, {"user_input": {"arg": _tensor(_INPUT)}}],
        "output_specs": [{"user_output": {"arg": _tensor(names[id(output)])}}],
    }
    return _zipped(_model(graph, signature), weights)


def _spec(name: str, name_in_graph: str, weight: torch.Tensor) -> dict[str, Any]:
    import torch

    if isinstance(weight, torch.nn.Parameter):
        return {"parameter": {"arg": {"name": name_in_graph}, "parameter_name": name}}
    return {"buffer": {"arg": {"name": name_in_graph}, "buffer_name": name, "persistent": True}}


def _node(call: _Call, name: str, names: dict[int, str], tensors: dict[str, Any]) -> dict[str, Any]:
    """One operator as the archive has it; ``names`` and ``tensors`` learn its results."""
    import torch

    if call.operator.namespace != "aten":
        raise CompileError(f"{call.operator} is no ATen operator")
    parameters = [argument.name for argument in call.operator._schema.arguments]
    inputs = [
        {"name": parameters[place], "arg": _argument(value, names), "kind": _POSITIONAL}
        for place, value in enumerate(call.args)
    ] + [{"name": key, "arg": _argument(value, names), "kind": _KEYWORD} for key, value in call.named.items()]
    is_single = isinstance(call.result, torch.Tensor)
    results = [call.result] if is_single else list(call.result)
    for number, result in enumerate(results):
        names[id(result)] = name if is_single else f"{name}_{number}"
        tensors[names[id(result)]] = _meta(result)
    outputs = [_tensor(names[id(result)]) for result in results]
    if len(call.operator._schema.returns) == 1 and not is_single:
        outputs = [{"as_tensors": [output["as_tensor"] for output in outputs]}]
    return {
        "target": f"torch.ops.aten.{call.operator.__name__}",
        "inputs": inputs,
        "outputs": outputs,
        "metadata": {},
        "is_hop_single_tensor_return": None,
        "name": name,
    }


def _argument(value: Any, names: Mapping[int, str]) -> dict[str, Any]:
    import torch
    from torch._export.serde import serialize

    if value is None:
        return {"as_none": True}
    if type(value) in _SCALARS:
        return {_SCALARS[type(value)]: value}
    if isinstance(value, torch.Tensor):
        if id(value) not in names:
            raise CompileError("a tensor that is neither input nor weight is used: register it as a buffer")
        return _tensor(names[id(value)])
    if isinstance(value, torch.dtype):
        return {"as_scalar_type": int(serialize._TORCH_TO_SERIALIZE_DTYPE[value])}
    if isinstance(value, torch.memory_format):
        return {"as_memory_format": int(serialize._TORCH_TO_SERIALIZE_MEMORY_FORMAT[value])}
    if isinstance(value, torch.device):
        return {"as_device": {"type": value.type, "index": value.index}}
    if isinstance(value, torch.layout):
        return {"as_layout": int(serialize._TORCH_TO_SERIALIZE_LAYOUT[value])}
    if isinstance(value, list | tuple):
        return _list(list(value), names)
    raise CompileError(f"an operator is called with a {type(value).__name__}")


def _list(values: list[Any], names: Mapping[int, str]) -> dict[str, Any]:
    """Of one type; an empty one is of integers (the shape of a scalar)."""
    items = [next(iter(_argument(value, names).items())) for value in values]
    kinds = {kind for kind, _ in items} or {"as_int"}
    if len(kinds) != 1 or not kinds <= {"as_int", "as_float", "as_bool", "as_tensor"}:
        raise CompileError(f"an operator is called with a list of {sorted(kinds)}")
    return {f"{kinds.pop()}s": [content for _, content in items]}


def _tensor(name: str) -> dict[str, Any]:
    return {"as_tensor": {"name": name}}


def _meta(tensor: torch.Tensor) -> dict[str, Any]:
    from torch._export.serde import serialize

    return {
        "dtype": int(serialize._TORCH_TO_SERIALIZE_DTYPE[tensor.dtype]),
        "sizes": [{"as_int": extent} for extent in tensor.shape],
        "requires_grad": tensor.requires_grad,
        "device": {"type": tensor.device.type, "index": tensor.device.index},
        "strides": [{"as_int": stride} for stride in tensor.stride()],
        "storage_offset": {"as_int": 0},
        "layout": _STRIDED,
    }


def _model(graph: Mapping[str, Any], signature: Mapping[str, Any]) -> dict[str, Any]:
    """One input by its place, one output, neither in a structure."""
    import torch
    from torch._export.serde.schema import SCHEMA_VERSION

    given = {"type": "builtins.tuple", "context": "null", "children_spec": [_LEAF]}
    named = {"type": "builtins.dict", "context": "[]", "children_spec": []}
    called = {
        "inputs": [],
        "outputs": [],
        "in_spec": json.dumps([1, {**given, "children_spec": [given, named]}]),
        "out_spec": json.dumps([1, _LEAF]),
        "forward_arg_names": [_INPUT],
    }
    module = {
        "graph": graph,
        "signature": signature,
        "module_call_graph": [{"fqn": "", "signature": called}],
        "metadata": {},
        "treespec_namedtuple_fields": {},
    }
    return {
        "graph_module": module,
        "opset_version": {"aten": torch._C._get_max_operator_version()},
        "range_constraints": {},
        "schema_version": dict(zip(("major", "minor"), SCHEMA_VERSION, strict=True)),
        "verifiers": ["TRAINING"],
        "torch_version": torch.__version__,
        "guards_code": [],
    }


def _zipped(model: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> bytes:
    import torch

    config = {
        name: {
            "path_name": f"weight_{number}",
            "is_param": isinstance(weight, torch.nn.Parameter),
            "use_pickle": False,
            "tensor_meta": _meta(weight),
        }
        for number, (name, weight) in enumerate(weights.items())
    }
    files: dict[str, bytes] = {
        f"data/weights/weight_{number}": weight.detach().reshape(-1).view(torch.uint8).numpy().tobytes()
        for number, weight in enumerate(weights.values())
    }
    files |= {
        "data/weights/model_weights_config.json": json.dumps({"config": config}).encode(),
        "data/constants/model_constants_config.json": b'{"config": {}}',
        "models/model.json": json.dumps(model).encode(),
        "data/sample_inputs/model.pt": b"",
        "archive_format": b"pt2",
        "archive_version": b"0",
        "byteorder": b"little",
        ".data/version": b"6\n",
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"archive/{name}", content)
    return buffer.getvalue()
