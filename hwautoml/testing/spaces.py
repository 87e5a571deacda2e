"""What every search space must be, as tests for its author to run.

Subclass the suite of the contract that the space fulfils, and give it the space::

    import pytest
    from hwautoml.testing.spaces import ElasticSpaceSuite
    from my_package import MySpace

    class TestMySpace(ElasticSpaceSuite):
        @pytest.fixture(params=[(8, 1, 10), (32, 3, 2)])
        def space(self, request):
            return MySpace(*request.param)

Smallest, largest and a few random members are looked at; they are the same in every run.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hwautoml.core.elastic_space import ElasticSpace
from hwautoml.core.layer import Layer
from hwautoml.core.space import Architecture, SearchSpace
from hwautoml.spaces import load_family, space_names
from hwautoml.testing._pytest import pytest

if TYPE_CHECKING:
    from hwautoml.supernets.supernet import Supernet

NUM_SAMPLES = 12
LAYERS_PER_KIND = 4
TOLERANCE = 1e-4


class SearchSpaceSuite:
    """For a space that is searched by its latency table."""

    @pytest.fixture
    def space(self) -> SearchSpace:
        raise NotImplementedError("a subclass says which space: override the fixture 'space'")

    @pytest.fixture
    def members(self, space: SearchSpace) -> list[Architecture]:
        rng = np.random.default_rng(0)
        return [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(NUM_SAMPLES))]

    def test_identity_family_and_name_are_built_alike(self, space: SearchSpace) -> None:
        size = f"{space.image_size}x{space.image_size}x{space.channels}"
        assert re.fullmatch(r"[a-z0-9][a-z0-9_-]*/v\d+", space.identity), f"{space.identity!r} is not like 'mobile/v1'"
        assert space.family.startswith(f"{space.identity}/") and space.family.endswith(f"/{size}"), space.family
        assert space.name == f"{space.family}/classes{space.num_outputs}"

    def test_it_is_found_by_its_name(self, space: SearchSpace) -> None:
        name = space.identity.partition("/")[0]
        assert name in space_names(), f"no entry point {name!r} in the group 'hwautoml.spaces' is installed"
        assert load_family(space.family).family == space.family

    def test_its_sizes_make_it_again(self, space: SearchSpace) -> None:
        again = type(space)(space.image_size, space.channels, space.num_outputs)  # type: ignore[call-arg]  # a class's own
        assert (again.choices, again.channels, again.num_outputs) == (space.choices, space.channels, space.num_outputs)
        assert again in space.variants() or again.family in {variant.family for variant in space.variants()}

    def test_choices_have_names_of_their_own(self, space: SearchSpace) -> None:
        names = [choice.name for choice in space.choices]
        assert names and len(set(names)) == len(names), names

    def test_encode_is_the_inverse_of_decode(self, space: SearchSpace, members: list[Architecture]) -> None:
        for member in members:
            assert space.decode(space.encode(member)) == member
            assert space.architecture(member.as_dict) == member

    def test_canonical_values_are_options_and_stay_as_they_are(self, space: SearchSpace) -> None:
        for row in _encodings(space):
            values = {c.name: c.options[i] for c, i in zip(space.choices, row, strict=True)}
            once = space.canonical(values)
            assert list(once) == [choice.name for choice in space.choices]
            assert all(once[choice.name] in choice.options for choice in space.choices), once
            assert space.canonical(once) == once

    def test_all_layers_are_distinct_and_have_keys(self, space: SearchSpace) -> None:
        layers = space.all_layers()
        assert len({layer.key for layer in layers}) == len(layers)
        assert [Layer.from_key(layer.key) for layer in layers] == list(layers)

    def test_every_layer_of_a_member_is_one_of_all_layers(
        self, space: SearchSpace, members: list[Architecture]
    ) -> None:
        everything = set(space.all_layers())
        for member in members:
            missing = [layer.key for layer in space.layers(member) if layer not in everything]
            assert not missing, f"all_layers() lacks {missing} of {member.as_dict}"

    def test_layer_indices_are_those_of_layers(self, space: SearchSpace) -> None:
        encodings, free = _encodings(space), len(space.all_layers())
        found, expected = space.layer_indices(encodings), SearchSpace.layer_indices(space, encodings)
        for row, mine, plain in zip(encodings, found, expected, strict=True):
            assert sorted(mine[mine < free]) == sorted(plain[plain < free]), space.decode(row).as_dict

    def test_the_last_layer_alone_is_the_head(self, space: SearchSpace, members: list[Architecture]) -> None:
        for member in members:
            *others, last = space.layers(member)
            assert last.is_head and last.out_channels == space.num_outputs, last.key
            assert not any(layer.is_head for layer in others), member.as_dict

    def test_images_go_in_at_the_members_resolution(self, space: SearchSpace, members: list[Architecture]) -> None:
        for member in members:
            first, side = space.layers(member)[0], space.resolution(member)
            assert 0 < side <= space.image_size
            assert (first.in_channels, first.height, first.width) == (space.channels, side, side), first.key

    def test_costs_are_those_of_the_modules(self, space: SearchSpace) -> None:
        """Multiply-accumulates to 1 %; parameters as they are or with norms folded into convolutions."""
        for layer in _of_every_kind(space):
            cost, module = space.cost(layer), space.layer_module(layer).eval()
            flops = _flops(module, _input_of(layer))
            assert abs(flops - 2 * cost.macs) <= 0.01 * flops, f"{layer.key}: torch counts {flops // 2} macs"
            built = sum(parameter.numel() for parameter in module.parameters())
            scales = sum(m.num_features for m in module.modules() if isinstance(m, nn.BatchNorm2d))
            assert built - scales <= cost.parameters <= built, f"{layer.key}: torch has {built} parameters"
            assert cost.bytes_moved >= cost.peak_activation_bytes > 0 or not cost.macs, layer.key
            assert cost.num_kernels >= 1 and 0 <= cost.depthwise_macs <= cost.macs, layer.key
            assert space.cost(replace(layer, batch=3)).macs == 3 * cost.macs, f"{layer.key} at batch 3"

    def test_ordered_options_end_with_the_most_expensive(self, space: SearchSpace, members: list[Architecture]) -> None:
        for member in members:
            for index, choice in enumerate(space.choices):
                cheap, dear = (_with_option(space, member, index, option) for option in (0, -1))
                if choice.is_ordered:
                    found = [space.total_cost(a).macs for a in (cheap, dear)]
                    assert found[0] <= found[1], f"{choice.name} {choice.options[0]} to {choice.options[-1]}: {found}"

    def test_a_network_gives_one_finite_output_each(self, space: SearchSpace, members: list[Architecture]) -> None:
        for member in members[:4]:
            with torch.no_grad():
                found = space.module(member).eval()(_images(space, member))
            assert found.shape == (2, space.num_outputs) and found.isfinite().all(), member.as_dict

    def test_networks_export_and_compute_the_same(
        self, space: SearchSpace, members: list[Architecture], tmp_path: Path
    ) -> None:
        for member in (members[0], members[-1]):
            images = _images(space, member)[:1]
            _assert_exports(_with_statistics(space.module(member), images), images, tmp_path / f"{member.id}.onnx")

    def test_layers_of_every_kind_export_alone(self, space: SearchSpace, tmp_path: Path) -> None:
        """As micro-benchmarks need them."""
        for layer in {layer.kind: layer for layer in space.all_layers()}.values():
            x = _input_of(layer)
            _assert_exports(_with_statistics(space.layer_module(layer), x), x, tmp_path / f"{layer.kind}.onnx")


class ElasticSpaceSuite(SearchSpaceSuite):
    """For a space that ``run`` trains: members that share weights."""

    @pytest.fixture
    def space(self) -> ElasticSpace:
        raise NotImplementedError("a subclass says which space: override the fixture 'space'")

    @pytest.fixture
    def supernet(self, space: ElasticSpace) -> Supernet:
        """Norms far from their initial values, so that a wrong slice would show."""
        from hwautoml.supernets.supernet import Supernet

        torch.manual_seed(0)
        network = Supernet(space)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None and module.running_var is not None
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
                nn.init.normal_(module.running_mean, std=0.3)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.3)
        return network

    def test_architectures_are_equal_exactly_if_they_build_the_same_network(self, space: ElasticSpace) -> None:
        rng, num_options = np.random.default_rng(1), space.num_options
        for row in _encodings(space):
            changed, index = row.copy(), int(rng.integers(len(row)))
            changed[index] = rng.integers(num_options[index])
            first, second = space.decode(row), space.decode(changed)
            is_same = space.placed_layers(first) == space.placed_layers(second)
            assert (first == second) == is_same, f"{first.as_dict} and {second.as_dict}: see canonical()"

    def test_a_step_down_in_an_ordered_choice_never_costs_more(
        self, space: ElasticSpace, members: list[Architecture]
    ) -> None:
        """Members are brought within reach of a limit step by step."""
        for member in members:
            for index, choice in enumerate(space.choices):
                option = int(space.encode(member)[index])
                if choice.is_ordered and option:
                    smaller = _with_option(space, member, index, option - 1)
                    found = [space.total_cost(a).macs for a in (smaller, member)]
                    assert found[0] <= found[1], f"{choice.name} {member[choice.name]}, a step down: {found}"

    def test_each_layer_takes_what_the_one_before_it_gives(
        self, space: ElasticSpace, members: list[Architecture]
    ) -> None:
        for member in members:
            for layer, following in itertools.pairwise(space.layers(member)):
                given = (layer.out_channels, -(-layer.height // layer.stride), -(-layer.width // layer.stride))
                taken = (following.in_channels, following.height, following.width)
                assert taken == given, f"{following.key} behind {layer.key}"

    def test_modules_of_layers_take_and_give_their_shapes(self, space: ElasticSpace) -> None:
        for layer in _of_every_kind(space):
            with torch.no_grad():
                found = space.layer_module(layer).eval()(_input_of(layer))
            side = (-(-layer.height // layer.stride), -(-layer.width // layer.stride))
            expected = (1, layer.out_channels) if layer.is_head else (1, layer.out_channels, *side)
            assert found.shape == expected, f"{layer.key} gives {tuple(found.shape)}, expected {expected}"

    def test_positions_are_names_of_shared_weights(self, space: ElasticSpace, members: list[Architecture]) -> None:
        shared = space.shared_layers()
        for member in members:
            positions = [position for position, _ in space.placed_layers(member)]
            assert len(set(positions)) == len(positions), positions
            assert not any("." in position for position in positions), positions
            for position, layer in space.placed_layers(member):
                assert position in shared, f"shared_layers() lacks {position!r}"
                assert space.weights_kind(layer) in shared[position], f"{layer.key} at {position}: {shared[position]}"

    def test_weights_of_members_fit_the_shared_ones(self, space: ElasticSpace, members: list[Architecture]) -> None:
        shared = space.shared_layers()
        with torch.device("meta"):
            for member in members:
                for position, layer in space.placed_layers(member):
                    whole = space.layer_module(shared[position][space.weights_kind(layer)]).state_dict()
                    for name, tensor in space.layer_module(layer).state_dict().items():
                        assert name in whole, f"{name} of {layer.key} is not in the shared layer at {position}"
                        fits = len(tensor.shape) == len(whole[name].shape) and all(
                            size <= full for size, full in zip(tensor.shape, whole[name].shape, strict=True)
                        )
                        assert fits, f"{name} of {layer.key}: {tensor.shape} in {whole[name].shape} at {position}"

    def test_residual_norms_are_norms(self, space: ElasticSpace) -> None:
        for layer in _of_every_kind(space):
            norms = {n for n, m in space.layer_module(layer).named_modules() if isinstance(m, nn.BatchNorm2d)}
            assert norms.issuperset(space.residual_norms(layer)), f"{layer.key} has {sorted(norms)}"

    def test_kinds_tell_apart_what_is_not_ordered(self, space: ElasticSpace, members: list[Architecture]) -> None:
        unordered = [index for index, choice in enumerate(space.choices) if not choice.is_ordered]
        for member in members:
            assert len(space.kinds(member)) == len(unordered)

    @pytest.mark.parametrize("is_training", [False, True], ids=["running statistics", "batch statistics"])
    def test_a_cut_out_network_computes_what_the_supernet_does(
        self, space: ElasticSpace, supernet: Supernet, members: list[Architecture], is_training: bool
    ) -> None:
        supernet.train(is_training)
        for member in members:
            images = _images(space, member, 4)
            network = supernet.cut_out(member)
            with torch.no_grad():
                alone, shared = network(images), supernet(images, member)
            assert alone.abs().max() > 0, "a comparison of zeros says nothing"
            difference = float((alone - shared).abs().max())
            assert difference <= TOLERANCE * max(1.0, float(shared.abs().max())), f"{difference}: {member.as_dict}"
            shapes = {name: tensor.shape for name, tensor in space.module(member).state_dict().items()}
            assert {name: tensor.shape for name, tensor in network.state_dict().items()} == shapes


def _encodings(space: SearchSpace, num: int = 40) -> np.ndarray:
    """Any option indices, canonical or not, both ends included: (num, num_choices)."""
    drawn = np.random.default_rng(0).integers(0, space.num_options, size=(num, len(space.choices)))
    drawn[0], drawn[1] = 0, space.num_options - 1
    return drawn


def _with_option(space: SearchSpace, architecture: Architecture, index: int, option: int) -> Architecture:
    row = space.encode(architecture)
    row[index] = option % space.num_options[index]
    return space.decode(row)


def _of_every_kind(space: SearchSpace) -> Iterator[Layer]:
    for _, group in itertools.groupby(sorted(space.all_layers(), key=lambda x: x.kind), key=lambda x: x.kind):
        layers = list(group)
        yield from layers[:: max(1, len(layers) // LAYERS_PER_KIND)]


def _input_of(layer: Layer) -> Tensor:
    shape = (layer.batch, layer.in_channels, layer.height, layer.width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _images(space: SearchSpace, architecture: Architecture, num: int = 2) -> Tensor:
    side = space.resolution(architecture)
    return torch.randn(num, space.channels, side, side, generator=torch.Generator().manual_seed(0))


def _flops(module: nn.Module, x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
    return int(counter.get_total_flops())


def _with_statistics(module: nn.Module, x: Tensor) -> nn.Module:
    """Norms that do something: of a new network they are the identity."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1.0
    with torch.no_grad():
        module.train()(torch.cat([x, -x, 2 * x, x.flip(2)]))
    return module.eval()


def _assert_exports(module: nn.Module, x: Tensor, path: Path) -> None:
    import onnxruntime

    from hwautoml.exporters import export_probe

    session = onnxruntime.InferenceSession(str(export_probe(module, path, tuple(x.shape)).path))
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    with torch.no_grad():
        expected = module(x).numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= TOLERANCE * max(1.0, float(np.abs(expected).max())), path.stem
