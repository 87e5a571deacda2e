"""Exported programs (``torch.export``'s .pt2 archives), checked before torch reads them.

torch's own reader trusts its files. In torch 2.13 ``torch.export.load`` unpickles tensors and objects
that an archive marks so (``weights_only=False``), evaluates symbolic sizes with sympy (which calls
``eval``), turns a node's target into any attribute below ``torch`` (``torch.os.system`` among them), imports
what a tree specification names, and runs guards that are kept as Python source. What
``exporters.export_program`` writes needs none of it: raw weights and a graph of ATen operators with
fixed shapes. Everything else is refused here, from the very bytes that torch then gets.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwautoml.compilers._torch_model import Description
from hwautoml.errors import CompileError, UnsupportedOperatorError

if TYPE_CHECKING:
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


def read_program(path: Path) -> tuple[ExportedProgram, bytes]:
    """The program in a file, and the file's content.

    Raises CompileError, naming the file, when it is damaged or holds more than weights and ATen operators, and
    UnsupportedOperatorError for a model of another kind.
    """
    import torch

    if path.suffix == ".onnx":
        raise UnsupportedOperatorError(
            f"torch cannot compile {path}: it runs exported programs ({SUFFIX}), not ONNX",
            fix="compile the ONNX file with onnxruntime or tvm, or export the network itself "
            "with hwautoml.exporters.export_program",
        )
    try:
        content = path.read_bytes()
        _check(content)
        program = torch.export.load(io.BytesIO(content))
    except _RefusedError as error:
        raise CompileError(
            f"{path} is not loaded: {error}", fix="export the network with hwautoml.exporters.export_program"
        ) from error
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError, AttributeError, RuntimeError,
            AssertionError) as error:  # fmt: skip  # torch checks its archives with assertions
        raise CompileError(
            f"{path} is not a readable exported program: {str(error).strip() or type(error).__name__}",
            fix="export the network again",
        ) from error
    return program, content


def describe(program: ExportedProgram) -> Description:
    """Raises CompileError unless the program has one input and one output, both tensors of fixed shape."""
    placeholders = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    inputs, outputs = program.graph_signature.user_inputs, program.graph.output_node().args[0]
    if len(inputs) != 1 or len(outputs) != 1 or inputs[0] not in placeholders:
        raise CompileError(
            f"the program has {len(inputs)} inputs and {len(outputs)} outputs; one of each is expected",
            fix="export a network that maps images to probabilities",
        )
    given, result = placeholders[inputs[0]], outputs[0].meta["val"]
    return Description(
        device=str(given.device),
        input_name=str(inputs[0]),
        input_shape=tuple(int(extent) for extent in given.shape),
        input_dtype=str(given.dtype).removeprefix("torch."),
        output_shape=tuple(int(extent) for extent in result.shape),
    )


class _RefusedError(Exception):
    """The archive holds something that reading or running could execute."""


def _check(content: bytes) -> None:
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
        _check_model(json.loads(archive.read(entries[_MODEL])))


def _check_model(model: dict[str, Any]) -> None:
    module = model["graph_module"]
    for name, part in (("guards_code", model), ("range_constraints", model), ("treespec_namedtuple_fields", module)):
        if part.get(name):
            raise _RefusedError(f"it has {name}")
    for node in module["graph"]["nodes"]:
        if not _OPERATOR.fullmatch(node["target"]):
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
