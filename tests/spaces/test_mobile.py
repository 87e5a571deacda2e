import itertools

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hwautoml.core.layer import Layer
from hwautoml.core.space import Architecture
from hwautoml.errors import InvalidValueError, UnknownNameError
from hwautoml.spaces.mobile import EXPANSIONS, MobileSpace
from hwautoml.spaces.mobile_layers import DEPTHWISE_KINDS, KINDS, layer_cost

EDGE_SIZES = (8, 9, 23, 24, 47, 48, 95, 96, 224)  # where widths, strides or resolutions change, and the ends
SPACE = MobileSpace(32, 3, 10)

spaces = st.builds(MobileSpace, st.integers(8, 224), st.sampled_from([1, 3]), st.integers(2, 300))
seeds = st.integers(0, 2**32 - 1)
networks = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def sample(space: MobileSpace, seed: int) -> Architecture:
    return space.sample(np.random.default_rng(seed))


def run_once(space: MobileSpace, architecture: Architecture, network: nn.Module) -> torch.Tensor:
    side = space.resolution(architecture)
    with torch.no_grad():
        return network.eval()(torch.randn(2, space.channels, side, side))


@given(spaces, seeds)
@settings(deadline=None)
def test_every_layer_of_a_member_is_one_of_all_layers(space: MobileSpace, seed: int) -> None:
    everything = set(space.all_layers())
    for offset in range(5):
        assert everything.issuperset(space.layers(sample(space, seed + offset)))
    for end in (space.smallest(), space.largest()):
        assert everything.issuperset(space.layers(end))


def test_all_layers_holds_nothing_that_no_member_has() -> None:
    space = MobileSpace(8, 1, 2)
    rng = np.random.default_rng(0)
    seen = {layer for _ in range(6000) for layer in space.layers(space.sample(rng))}
    assert seen == set(space.all_layers())


@given(spaces, seeds)
def test_encode_is_the_inverse_of_decode(space: MobileSpace, seed: int) -> None:
    architecture = sample(space, seed)
    assert space.decode(space.encode(architecture)) == architecture
    assert space.architecture(architecture.as_dict) == architecture


@given(spaces, seeds)
def test_canonical_is_idempotent(space: MobileSpace, seed: int) -> None:
    drawn = np.random.default_rng(seed).integers(0, space.num_options)
    values = {c.name: c.options[i] for c, i in zip(space.choices, drawn, strict=True)}
    once = space.canonical(values)
    assert space.canonical(once) == once
    assert list(once) == [c.name for c in space.choices]


@given(spaces, seeds, st.data())
def test_ids_are_equal_exactly_for_equal_networks(space: MobileSpace, seed: int, data: st.DataObject) -> None:
    """One choice is changed, which may or may not have an effect."""
    indices = np.random.default_rng(seed).integers(0, space.num_options)
    changed = indices.copy()
    choice = data.draw(st.integers(0, len(indices) - 1))
    changed[choice] = data.draw(st.integers(0, int(space.num_options[choice]) - 1))
    first, second = space.decode(indices), space.decode(changed)
    assert (first.id == second.id) == (space.layers(first) == space.layers(second))


@given(spaces, seeds)
@networks
def test_a_network_gives_one_logit_per_class(space: MobileSpace, seed: int) -> None:
    architecture = sample(space, seed)
    assert run_once(space, architecture, space.module(architecture)).shape == (2, space.num_outputs)


@pytest.mark.parametrize("image_size", EDGE_SIZES)
def test_the_smallest_and_the_largest_network_run(image_size: int) -> None:
    space = MobileSpace(image_size, 1, 3)
    for architecture in (space.smallest(), space.largest()):
        assert run_once(space, architecture, space.module(architecture)).isfinite().all()
    assert space.resolution(space.largest()) == image_size
    assert 0 < space.resolution(space.smallest()) < image_size


@given(spaces, seeds)
@networks
def test_parameters_are_those_of_the_network_with_its_norms_folded(space: MobileSpace, seed: int) -> None:
    architecture = sample(space, seed)
    network = space.module(architecture)
    built = sum(p.numel() for p in network.parameters())
    scales = sum(m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    assert space.total_cost(architecture).parameters == built - scales


@pytest.mark.parametrize(("image_size", "seed"), [(8, 0), (20, 1), (32, 2), (32, 3), (47, 4), (64, 5), (100, 6)])
def test_macs_agree_with_torch(image_size: int, seed: int) -> None:
    space = MobileSpace(image_size, 3, 7)
    architecture = sample(space, seed)
    side = space.resolution(architecture)
    network = space.module(architecture).eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(torch.randn(1, 3, side, side))
    assert counter.get_total_flops() == 2 * space.total_cost(architecture).macs


@pytest.mark.parametrize("kind", KINDS)
def test_macs_and_kernels_of_every_kind_agree_with_torch(kind: str) -> None:
    for layer in [layer for layer in SPACE.all_layers() if layer.kind == kind][::17]:
        counter = FlopCounterMode(display=False)
        module = SPACE.layer_module(layer).eval()
        with counter, torch.no_grad():
            out = module(torch.randn(1, layer.in_channels, layer.height, layer.width))
        cost = layer_cost(layer)
        assert counter.get_total_flops() == 2 * cost.macs, layer.key
        assert cost.num_kernels == sum(isinstance(m, nn.Conv2d) for m in module.modules()), layer.key
        assert 4 * out.numel() <= cost.peak_activation_bytes < cost.bytes_moved, layer.key


@pytest.mark.parametrize("image_size", EDGE_SIZES)
def test_layer_keys_parse_back_and_are_distinct(image_size: int) -> None:
    layers = MobileSpace(image_size, 3, 10).all_layers()
    assert [Layer.from_key(layer.key) for layer in layers] == list(layers)
    assert len({layer.key for layer in layers}) == len(layers)


@given(spaces, seeds)
def test_each_layer_takes_what_the_one_before_it_gives(space: MobileSpace, seed: int) -> None:
    architecture = sample(space, seed)
    layers = space.layers(architecture)
    assert layers[0].height == space.resolution(architecture)
    for layer, following in itertools.pairwise(layers):
        assert following.in_channels == layer.out_channels
        assert following.height == following.width == -(-layer.height // layer.stride)


def test_dense_blocks_have_one_kernel_size_and_small_expansions() -> None:
    for layer in SPACE.all_layers():
        if layer.kind in ("fused", "basic"):
            assert layer.kernel_size == 3
        if layer.kind in KINDS:
            assert layer.expansion in EXPANSIONS[layer.kind]
    assert {layer.kernel_size for layer in SPACE.all_layers() if layer.kind in DEPTHWISE_KINDS} == {3, 5, 7}


def test_the_family_leaves_out_the_classes_and_the_name_does_not() -> None:
    ten, twenty = MobileSpace(32, 3, 10), MobileSpace(32, 3, 20)
    assert ten.family == twenty.family == "mobile/v1/32x32x3"
    assert ten.name == "mobile/v1/32x32x3/classes10" != twenty.name
    assert ten.smallest().id != twenty.smallest().id


@pytest.mark.parametrize(
    ("image_size", "channels", "num_outputs", "message"),
    [
        (7, 3, 10, "image size 7 must be between 8 and 224"),
        (225, 3, 10, "image size 225 must be between 8 and 224"),
        (32, 2, 10, r"channels must be 1 \(grey\) or 3 \(RGB\), got 2"),
        (32, 3, 0, "at least 1 output, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(image_size: int, channels: int, num_outputs: int, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        MobileSpace(image_size, channels, num_outputs)


def test_an_unknown_choice_is_refused_and_the_nearest_known_comes_first() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown choice 'stage0.widht'; known: stage0.width"):
        SPACE.architecture({**SPACE.smallest().as_dict, "stage0.widht": 16})


def test_a_missing_choice_is_named() -> None:
    values = SPACE.smallest().as_dict
    with pytest.raises(InvalidValueError, match="lacks 'stage1.depth'"):
        SPACE.architecture({name: value for name, value in values.items() if name != "stage1.depth"})


@pytest.mark.parametrize(
    ("name", "value"), [("stage0.depth", 9), ("stage0.kind", "dense"), ("stage0.block0.kernel", "3")]
)
def test_a_value_that_is_no_option_is_refused(name: str, value: object) -> None:
    with pytest.raises(InvalidValueError, match=f"{name} = {value!r} must be one of"):
        SPACE.architecture({**SPACE.smallest().as_dict, name: value})  # type: ignore[dict-item]


def test_true_is_not_the_option_one() -> None:
    assert 1 in SPACE.stages[0].depths
    with pytest.raises(InvalidValueError, match=r"stage0.depth = True must be one of \(1, 2\)"):
        SPACE.architecture({**SPACE.smallest().as_dict, "stage0.depth": True})


def test_a_float_that_equals_an_option_gives_the_same_id() -> None:
    values = SPACE.largest().as_dict
    floats = {name: float(value) if isinstance(value, int) else value for name, value in values.items()}
    found = SPACE.architecture(floats)
    assert found.id == SPACE.largest().id
    assert all(type(found[name]) is type(value) for name, value in values.items())
