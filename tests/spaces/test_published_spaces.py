"""What holds for every published space, besides ``hwautoml.testing.spaces``."""

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hwautoml.core.layer import Layer
from hwautoml.core.space import Architecture, SearchSpace
from hwautoml.errors import InvalidValueError
from hwautoml.exporters import export_onnx, export_probe
from hwautoml.spaces import load_space
from hwautoml.spaces.fbnet import FBNetSpace
from hwautoml.spaces.nasbench201 import NasBench201Space
from hwautoml.spaces.ofa import OFASpace
from hwautoml.tasks.classification import Classification

SPACES = [
    NasBench201Space(),
    NasBench201Space(16, 3, 120),
    FBNetSpace(),
    FBNetSpace(224, 3, 1000),
    OFASpace(),
    OFASpace(width_multiplier=1.0),
]
DEFAULTS = [load_space(name) for name in ("nasbench201", "fbnet", "ofa-mobilenetv3")]
KINDS = [(space, kind) for space in DEFAULTS for kind in dict.fromkeys(layer.kind for layer in space.all_layers())]

spaces, seeds = st.sampled_from(SPACES), st.integers(0, 2**32 - 1)
by_name = {"ids": lambda value: value.name if isinstance(value, SearchSpace) else str(value)}
networks = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def sample(space: SearchSpace, seed: int) -> Architecture:
    return space.sample(np.random.default_rng(seed))


def with_statistics(module: nn.Module, x: torch.Tensor) -> nn.Module:
    """Norms that do something: of a new network they are the identity, and its logits are all biases."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1.0
    with torch.no_grad():
        module.train()(torch.cat([x, -x, 2 * x, x.flip(2)]))
    return module.eval()


def assert_parity(path: Path, module: nn.Module, x: torch.Tensor) -> None:
    found = onnxruntime.InferenceSession(str(path)).run(None, {"images": x.numpy()})[0]
    with torch.no_grad():
        expected = module(x).numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-4 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("space", SPACES, **by_name)
def test_all_layers_holds_nothing_that_no_member_has(space: SearchSpace) -> None:
    options = np.random.default_rng(0).integers(0, space.num_options, size=(20_000, len(space.choices)))
    assert np.unique(space.layer_indices(options)).size >= len(space.all_layers())
    assert set(range(len(space.all_layers()))) <= set(np.unique(space.layer_indices(options)))


@pytest.mark.parametrize("space", SPACES, **by_name)
def test_smallest_and_largest_are_the_ends(space: SearchSpace) -> None:
    macs = [space.total_cost(sample(space, seed)).macs for seed in range(20)]
    assert space.total_cost(space.smallest()).macs <= min(macs)
    assert space.total_cost(space.largest()).macs >= max(macs)


@given(spaces, seeds)
@networks
def test_parameters_are_those_of_the_network_with_its_norms_folded(space: SearchSpace, seed: int) -> None:
    architecture = sample(space, seed)
    network = space.module(architecture)
    built = sum(p.numel() for p in network.parameters())
    foldable = [m for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d) and name != "head.norm"]
    assert space.total_cost(architecture).parameters == built - sum(m.num_features for m in foldable)


@pytest.mark.parametrize(("space", "seed"), [(space, seed) for space in SPACES for seed in (0, 1)], **by_name)
def test_macs_agree_with_torch_and_the_output_is_one_logit_per_class(space: SearchSpace, seed: int) -> None:
    architecture = sample(space, seed)
    network, side = space.module(architecture).eval(), space.resolution(architecture)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        logits = network(torch.randn(1, 3, side, side))
    assert logits.shape == (1, space.num_outputs)
    assert counter.get_total_flops() == 2 * space.total_cost(architecture).macs


@pytest.mark.parametrize(("space", "kind"), KINDS, **by_name)
def test_cost_of_every_kind_agrees_with_torch(space: SearchSpace, kind: str) -> None:
    of_kind = [layer for layer in space.all_layers() if layer.kind == kind]
    for layer in of_kind[:: max(1, len(of_kind) // 4)]:
        module = space.layer_module(layer).eval()
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            out = module(torch.randn(1, layer.in_channels, layer.height, layer.width))
        cost = space.cost(layer)
        assert counter.get_total_flops() == 2 * cost.macs, layer.key
        assert 4 * out.numel() <= cost.peak_activation_bytes <= cost.bytes_moved, layer.key


@pytest.mark.parametrize(("space", "kind"), KINDS, **by_name)
def test_a_layer_of_every_kind_exports_alone(space: SearchSpace, kind: str, tmp_path: Path) -> None:
    layer = [layer for layer in space.all_layers() if layer.kind == kind][-1]
    x = torch.randn(1, layer.in_channels, layer.height, layer.width)
    module = with_statistics(space.layer_module(layer), x)
    assert_parity(export_probe(module, tmp_path / "layer.onnx", tuple(x.shape)).path, module, x)


@pytest.mark.parametrize("space", DEFAULTS, **by_name)
def test_a_whole_network_exports_and_computes_the_same(space: SearchSpace, tmp_path: Path) -> None:
    architecture = sample(space, 3)
    side = space.resolution(architecture)
    x = torch.randn(1, 3, side, side)
    network = with_statistics(space.module(architecture), x)
    artifact = export_probe(network, tmp_path / "network.onnx", tuple(x.shape))
    assert_parity(artifact.path, network, x)
    convolutions = [node for node in onnx.load(artifact.path).graph.node if node.op_type == "Conv"]
    assert len(convolutions) == sum(isinstance(m, nn.Conv2d) for m in network.modules())


@pytest.mark.slow
@pytest.mark.parametrize("space", DEFAULTS, **by_name)
def test_a_whole_network_goes_through_the_full_export(space: SearchSpace, tmp_path: Path) -> None:
    architecture = sample(space, 4)
    side = space.resolution(architecture)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own
        artifact = export_onnx(
            space.module(architecture),
            tmp_path / "network.onnx",
            resolution=side,
            channels=3,
            mean=[0.5] * 3,
            std=[0.25] * 3,
            task=Classification(tuple(str(i) for i in range(space.num_outputs))),
            architecture=architecture,
        )
    images = np.zeros((1, side, side, 3), dtype=np.uint8)
    found = onnxruntime.InferenceSession(str(artifact.path)).run(None, {"images": images})[0]
    assert found.shape == (1, space.num_outputs) and abs(found.sum() - 1) < 1e-4


@pytest.mark.parametrize("space", DEFAULTS, **by_name)
def test_a_layer_of_another_space_is_refused(space: SearchSpace) -> None:
    alien = Layer("fused", 8, 8, 8, 8)
    with pytest.raises(InvalidValueError, match="'fused' is not of the"):
        space.cost(alien)
    with pytest.raises(InvalidValueError, match="'fused' is not one of"):
        space.layer_module(alien)
