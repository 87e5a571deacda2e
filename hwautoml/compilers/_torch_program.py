"""Exported programs (``torch.export``'s .pt2 archives), checked before anything reads them.

To run a program, its graph and weights are read here (`_torch_graph`); torch's own reader is for what needs torch's own
object: compiling, and moving to another device. That reader trusts its files. In torch 2.13 ``torch.export.load``
unpickles tensors and objects that an archive marks so (``weights_only=False``), evaluates symbolic sizes with sympy
(which calls ``eval``), turns a node's target into any attribute below ``torch`` (``torch.os.system`` among them),
imports what a tree specification names, and runs guards that are kept as Python source. What ``exporters`` write needs
none of it: raw weights and a graph of ATen operators with fixed shapes. Everything else is refused here, from the very
bytes that are then read.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwautoml.compilers import _torch_graph
from hwautoml.compilers._torch_model import Description, require_device
from hwautoml.errors import CompileError, UnsupportedOperatorError

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

SUFFIX = ".pt2"
_MODEL = "models/model.json"
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_SAMPLE_INPUTS = "data/sample_inputs/model.pt"
_ENTRY = re.compile(
    r"data/weights/weight_\d+|data/constants/tensor_\d+|archive_format|archive_version|byteorder|\.data/\w+"
)
_OPERATOR = re.compile(r"torch\.ops\.aten\.\w+\.\w+")
#: Arguments of these kinds are evaluated or hold objects.
_REFUSED_KEYS = {"expr_str", "as_graph", "as_custom_obj", "as_operator", "as_opaque"}
_TREE_TYPES = {None, "builtins.tuple", "builtins.list", "builtins.dict"}


@dataclass(frozen=True)
class Program:
    """Ready to run, and the file's content."""

    function: Callable[[torch.Tensor], torch.Tensor]
    description: Description
    num_operators: int
    content: bytes


def open_program(path: Path) -> Program:
    """The program in a file, its weights on their device.

    Raises as `read_program` does, and MissingDependencyError where the device cannot be reached.
    """
    content, model = _checked(path)
    with _damage_named(path):
        module = model["graph_module"]
        description = _describe(module)
        require_device(description.device.partition(":")[0])
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            graph = _torch_graph.build(module, _weights(archive))
    return Program(graph.function, description, graph.num_operators, content)


def read_program(path: Path) -> tuple[ExportedProgram, Description]:
    """The program in a file as torch has it.

    Raises CompileError, naming the file, when it is damaged, holds more than weights and ATen operators or has not
    one input and one output, both tensors of fixed shape; UnsupportedOperatorError for a model of another kind.
    """
    import torch

    content, model = _checked(path)
    with _damage_named(path):
        description = _describe(model["graph_module"])
        return torch.export.load(io.BytesIO(content)), description


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except _RefusedError as error:
        raise CompileError(
            f"{path} is not loaded: {error}", fix="export the network with hwautoml.exporters.export_program"
        ) from error
    except (
        OSError,
        zipfile.BadZipFile,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        RuntimeError,
        AssertionError,
    ) as error:  # torch checks its archives with assertions
        raise CompileError(
            f"{path} is not a readable exported program: {str(error).strip() or type(error).__name__}",
            fix="export the network again",
        ) from error


def _checked(path: Path) -> tuple[bytes, dict[str, Any]]:
    """A file's content, and the model in it."""
    if path.suffix == ".onnx":
        raise UnsupportedOperatorError(
            f"torch cannot compile {path}: it runs exported programs ({SUFFIX}), not ONNX",
            fix="compile the ONNX file with onnxruntime or tvm, or export the network itself "
            "with hwautoml.exporters.export_program",
        )
    with _damage_named(path):
        content = path.read_bytes()
        return content, _check(content)


def _weights(archive: zipfile.ZipFile) -> dict[str, torch.Tensor]:
    """By their names in the module."""
    root, found = archive.namelist()[0].partition("/")[0], {}
    for config in _CONFIGS:
        for name, meta in json.loads(archive.read(f"{root}/{config}"))["config"].items():
            stored = f"{root}/{config.rpartition('/')[0]}/{meta['path_name']}"
            found[name] = _torch_graph.tensor(archive.read(stored), meta["tensor_meta"])
    return found


def _describe(module: dict[str, Any]) -> Description:
    specs, tensors = module["signature"], module["graph"]["tensor_values"]
    inputs = [spec["user_input"]["arg"] for spec in specs["input_specs"] if "user_input" in spec]
    outputs = [spec["user_output"]["arg"] for spec in specs["output_specs"] if "user_output" in spec]
    if len(specs["output_specs"]) != len(outputs):
        raise _RefusedError("it changes its weights")
    if len(inputs) != 1 or len(outputs) != 1 or "as_tensor" not in inputs[0] or "as_tensor" not in outputs[0]:
        raise _RefusedError(f"it has {len(inputs)} inputs and {len(outputs)} outputs; one tensor each is expected")
    name = inputs[0]["as_tensor"]["name"]
    given, result = tensors[name], tensors[outputs[0]["as_tensor"]["name"]]
    return Description(
        device=_torch_graph.device(given["device"]),
        input_name=name,
        input_shape=_torch_graph.extents(given["sizes"]),
        input_dtype=_torch_graph.DTYPES[given["dtype"]],
        output_shape=_torch_graph.extents(result["sizes"]),
    )


class _RefusedError(Exception):
    """The archive holds something that reading or running could execute."""


def _check(content: bytes) -> dict[str, Any]:
    """The model, once nothing in the archive can execute."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
        if len({name.partition("/")[0] for name in archive.namelist()}) != 1 or len(set(names)) != len(names):
            raise _RefusedError("it is no archive of one program")
        known = {_MODEL, _SAMPLE_INPUTS, *_CONFIGS}
        for name in names:
            if name not in known and not _ENTRY.fullmatch(name):
                raise _RefusedError(f"it holds {name!r}")
        entries = dict(zip(names, archive.infolist(), strict=True))
        if entries[_SAMPLE_INPUTS].file_size:
            raise _RefusedError("it holds pickled sample inputs")
        for name in _CONFIGS:
            for weight, meta in json.loads(archive.read(entries[name]))["config"].items():
                if meta["use_pickle"] is not False:
                    raise _RefusedError(f"{weight!r} is pickled")
        model: dict[str, Any] = json.loads(archive.read(entries[_MODEL]))
        _check_model(model)
    return model


def _check_model(model: dict[str, Any]) -> None:
    module = model["graph_module"]
    for name, part in (("guards_code", model), ("range_constraints", model), ("treespec_namedtuple_fields", module)):
        if part.get(name):
            raise _RefusedError(f"it has {name}")
    for node in module["graph"]["nodes"]:
        if not _OPERATOR.fullmatch(node["target"]) or ".from_file." in node["target"]:  # which opens any file
            raise _RefusedError(f"it calls {node['target']!r}, which is no ATen operator")
        if node["metadata"]:
            raise _RefusedError(f"{node['target']} carries metadata")
    for key, value in _items(model):
        if key in _REFUSED_KEYS:
            raise _RefusedError(f"it has an argument of kind {key!r}")
        if key == "name" and isinstance(value, str) and value and not value.isidentifier():
            raise _RefusedError(f"{value[:40]!r} is no name")
        if key in ("in_spec", "out_spec"):
            _check_tree(json.loads(value)[1])


def _check_tree(tree: dict[str, Any]) -> None:
    if tree["type"] not in _TREE_TYPES:
        raise _RefusedError(f"it takes or gives a {tree['type']}")
    if tree["context"] is not None and not isinstance(json.loads(tree["context"]), list | None):
        raise _RefusedError("it takes or gives a structure of its own")
    for child in tree["children_spec"]:
        _check_tree(child)


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    if isinstance(value, dict):
        yield from value.items()
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _items(child)
