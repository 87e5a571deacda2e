"""A checked program as one Python function: its operators, one after the other, and nothing around them.

``torch.export.load`` builds, traces and verifies a program again, 0.4 s for a network, and what it returns looks every
weight up through nested modules at each run. The graph in the archive needs none of it: it becomes a ``torch.fx``
graph, whose code, with the weights at hand, is the function. Values are freed after their last use, as ``torch.fx`` has
it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Json = Mapping[str, Any]

#: By their numbers in the archive; what else there is (complex, float8, quantised) no network here has.
DTYPES = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    12: "bool",
    13: "bfloat16",
}
MEMORY_FORMATS = {1: "contiguous_format", 2: "channels_last", 3: "channels_last_3d", 4: "preserve_format"}
STRIDED = 7  # the only layout
KEYWORD = 2  # the kind of an argument that is passed by its name
#: Checks of what the file states anyway; the other operators without a result are refused.
_ASSERTION = "torch.ops.aten._assert_tensor_metadata.default"
_PLAIN = {"as_int", "as_ints", "as_float", "as_floats", "as_bool", "as_bools", "as_string"}
_WEIGHTS = ("parameter", "buffer", "tensor_constant")


@dataclass(frozen=True)
class Graph:
    """``function`` maps one tensor to one; ``num_operators`` is how many it calls."""

    function: Callable[[torch.Tensor], torch.Tensor]
    num_operators: int


def build(module: Json, weights: Mapping[str, torch.Tensor]) -> Graph:
    """``module`` is the archive's ``graph_module``, checked; ``weights`` are by their names in the module.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is not what torch writes, or more than weights, one input,
            one output and operators on them.
    """
    import torch

    specs, results = module["signature"]["input_specs"], module["signature"]["output_specs"]
    graph, held, values = torch.fx.Graph(), SimpleNamespace(), {}
    (given,) = [spec["user_input"]["arg"]["as_tensor"]["name"] for spec in specs if "user_input" in spec]
    values[given] = graph.placeholder("x")
    used = {name for node in module["graph"]["nodes"] for item in node["inputs"] for name in _tensors(item["arg"])}
    for number, (name, weight) in enumerate(_weights(specs)):
        if name in used:
            setattr(held, f"weight_{number}", weights[weight])
            values[name] = graph.get_attr(f"weight_{number}")
    operators = [node for node in module["graph"]["nodes"] if node["target"] != _ASSERTION]
    for node in operators:
        _add(graph, values, node)
    (result,) = [spec["user_output"]["arg"]["as_tensor"]["name"] for spec in results]
    graph.output(values[result])
    code = graph.python_code("self")  # made by torch.fx from operators and numbers: no text of the file is in it
    namespace = dict(code.globals)
    exec(code.src, namespace)
    forward = namespace["forward"]
    return Graph(lambda x: forward(held, x), len(operators))


def _weights(specs: list[Json]) -> list[tuple[str, str]]:
    """What the graph calls them, and what they are called in the module."""
    found = []
    for spec in specs:
        ((kind, content),) = spec.items()
        if kind in _WEIGHTS:
            found.append((content["arg"]["name"], content[f"{kind}_name"]))
        elif kind != "user_input":
            raise ValueError(f"it has an input of kind {kind!r}")
    return found


def _add(graph: torch.fx.Graph, values: dict[str, torch.fx.Node], node: Json) -> None:
    """The operator, and under their names in ``values`` its results."""
    import torch

    name, overload = node["target"].removeprefix("torch.ops.aten.").split(".")
    target = getattr(getattr(torch.ops.aten, name), overload)
    if not isinstance(target, torch._ops.OpOverload):
        raise TypeError(f"{node['target']} is no operator")
    args = tuple(_argument(item["arg"], values) for item in node["inputs"] if item["kind"] != KEYWORD)
    named = {item["name"]: _argument(item["arg"], values) for item in node["inputs"] if item["kind"] == KEYWORD}
    called = graph.call_function(target, args, named)
    ((kind, content),) = node["outputs"][0].items()
    if len(node["outputs"]) == 1 and kind == "as_tensor":
        values[content["name"]] = called
        return
    # Several results, or one list of them.
    items = content if kind == "as_tensors" else [output["as_tensor"] for output in node["outputs"]]
    for number, item in enumerate(items):
        values[item["name"]] = graph.call_function(operator.getitem, (called, number))


def _argument(argument: Json, values: Mapping[str, torch.fx.Node]) -> Any:
    import torch

    ((kind, content),) = argument.items()
    if kind == "as_none":
        return None
    if kind in _PLAIN:
        return content
    if kind == "as_tensor":
        return values[content["name"]]
    if kind == "as_tensors":
        return [values[item["name"]] for item in content]
    if kind == "as_optional_tensors":
        return [values[item["as_tensor"]["name"]] if "as_tensor" in item else None for item in content]
    if kind == "as_scalar_type":
        return getattr(torch, DTYPES[content])
    if kind == "as_memory_format":
        return getattr(torch, MEMORY_FORMATS[content])
    if kind == "as_device":
        return torch.device(device(content))
    if kind == "as_layout" and content == STRIDED:
        return torch.strided
    raise ValueError(f"it has an argument of kind {kind!r}")


def _tensors(argument: Json) -> list[str]:
    """The names of an argument's tensors."""
    ((kind, content),) = argument.items()
    if kind == "as_tensor":
        return [content["name"]]
    if kind == "as_tensors":
        return [item["name"] for item in content]
    if kind == "as_optional_tensors":
        return [item["as_tensor"]["name"] for item in content if "as_tensor" in item]
    return []


def device(content: Json) -> str:
    """``cpu`` or ``cuda:0``."""
    index = content["index"]
    return str(content["type"]) if index is None else f"{content['type']}:{int(index)}"


def tensor(content: bytes, meta: Json) -> torch.Tensor:
    """From a weight's raw bytes and its description, in memory of its own.

    Raises RuntimeError where the bytes are too few.
    """
    import torch

    dtype, shape = getattr(torch, DTYPES[meta["dtype"]]), extents(meta["sizes"])
    if not content:
        return torch.zeros(shape, dtype=dtype, device=device(meta["device"]))
    flat = torch.frombuffer(bytearray(content), dtype=dtype)
    placed = flat.as_strided(shape, extents(meta["strides"]), int(meta["storage_offset"]["as_int"]))
    return placed.clone().to(device(meta["device"]))  # torch's own memory is aligned, which is faster


def extents(sizes: list[Json]) -> tuple[int, ...]:
    """Raises KeyError where one is left open."""
    return tuple(int(size["as_int"]) for size in sizes)
