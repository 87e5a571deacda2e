"""The quick export to a program is the thorough one's: operators, arguments, order, and what it computes."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hwautoml.compilers import load_backend
from hwautoml.core.layer import Layer
from hwautoml.core.space import SearchSpace
from hwautoml.errors import CompileError
from hwautoml.exporters import Deployable, export_program, export_program_probe
from hwautoml.spaces.fbnet import FBNetSpace
from hwautoml.spaces.mobile import MobileSpace
from hwautoml.spaces.nasbench201 import NasBench201Space

ASSERTION = "torch.ops.aten._assert_tensor_metadata.default"


def operators(path: Path) -> list[tuple[str, list[tuple[str, Any, int]], int]]:
    """Operator, arguments (weights by name, other tensors by their place in the order), number of results."""
    with zipfile.ZipFile(path) as archive:
        module = json.loads(archive.read("archive/models/model.json"))["graph_module"]
    names: dict[str, object] = {}
    for spec in module["signature"]["input_specs"]:
        ((kind, content),) = spec.items()
        given = content["arg"].get("as_tensor", content["arg"])["name"]
        names[given] = "the input" if kind == "user_input" else content[f"{kind}_name"]
    found = []
    for node in module["graph"]["nodes"]:
        if node["target"] == ASSERTION:  # of what the file states
            continue
        inputs = [(item["name"], known(item["arg"], names), item["kind"]) for item in node["inputs"]]
        results = [name for output in node["outputs"] for name in tensor_names(output)]
        names |= {name: (len(found), number) for number, name in enumerate(results)}
        found.append((node["target"], inputs, len(results)))
    return found


def known(argument: dict[str, Any], names: dict[str, object]) -> object:
    tensors = tensor_names(argument)
    return [names[name] for name in tensors] if tensors else argument


def tensor_names(argument: dict[str, Any]) -> list[str]:
    ((kind, content),) = argument.items()
    items = {"as_tensor": [content], "as_tensors": content}.get(kind, [])
    return [item["name"] for item in items]


def check_same_program(network: nn.Module, folder: Path, shape: tuple[int, ...], dtype: str = "float32") -> None:
    thorough = export_program(network, folder / "thorough.pt2", shape, dtype=dtype).path
    quick = export_program_probe(network, folder / "quick.pt2", shape, dtype=dtype).path
    assert operators(quick) == operators(thorough) != []
    x = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(x)).numpy()
        by_torch = torch.export.load(quick).module()(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(by_torch, expected)
    for path in (quick, thorough):
        model = load_backend("torch").open_model(path)
        assert (model.input_shape, model.input_dtype, model.output_shape) == (shape, dtype, expected.shape)
        np.testing.assert_array_equal(model(x), expected)


def one_of_each_kind(space: SearchSpace) -> dict[str, Layer]:
    """With a stride and without."""
    return {f"{layer.kind}-{layer.stride}": layer for layer in space.all_layers()}


MOBILE = one_of_each_kind(MobileSpace(16, 3, 5))


@pytest.mark.parametrize("kind", MOBILE)
def test_layers(kind: str, tmp_path: Path) -> None:
    layer = MOBILE[kind]
    shape = (layer.batch, layer.in_channels, layer.height, layer.width)
    check_same_program(MobileSpace(16, 3, 5).layer_module(layer), tmp_path, shape)


@pytest.mark.parametrize(
    ("space", "batch"),
    [(MobileSpace(16, 3, 5), 2), (NasBench201Space(), 1), pytest.param(FBNetSpace(), 1, marks=pytest.mark.slow)],
)
def test_networks(space: SearchSpace, batch: int, tmp_path: Path) -> None:
    architecture = space.sample(np.random.default_rng(0))
    network = Deployable(space.module(architecture), (0.5,) * 3, (0.25,) * 3)
    side = space.resolution(architecture)
    check_same_program(network, tmp_path, (batch, side, side, 3), "uint8")


class Several(nn.Module):
    """Lists of tensors, several results, scalars, constants, keyword arguments, an operator in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.arange(4.0).view(1, 4, 1, 1))
        self.factor = nn.Parameter(torch.randn(4))
        self.offset = nn.Parameter(torch.ones((), dtype=torch.bfloat16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = torch.chunk(x + self.shift, 2, dim=1)
        values, _ = torch.max(torch.cat([left * 2.5, right.clamp(min=-1)], dim=1), dim=3)
        return (values.mean(2).double() * self.factor + self.offset).to(torch.float32).relu_()


def test_several_results_and_other_arguments(tmp_path: Path) -> None:
    check_same_program(Several(), tmp_path, (2, 4, 5, 6))


def test_training_mode_is_kept_and_not_measured(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    export_program_probe(network, tmp_path / "net.pt2", (1, 3, 4, 4))
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x


class Constant(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.from_numpy(np.ones(4, np.float32))


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(4, 3).T)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(2) * self.factor


class Wrong(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(7, 7)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Pair(), "Pair gives a tuple"),
        (Constant(), "register it as a buffer"),
        (Transposed(), "factor is not contig"),
        (Wrong(), "cannot export Wrong"),
    ],
)
def test_what_cannot_be_recorded(network: nn.Module, message: str, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=message):
        export_program_probe(network, tmp_path / "net.pt2", (1, 3, 4, 4))
    assert list(tmp_path.iterdir()) == []
