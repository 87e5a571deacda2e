import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hwautoml.core.space import Architecture
from hwautoml.spaces.mobile import MobileSpace
from hwautoml.spaces.mobile_layers import KINDS
from hwautoml.supernets.supernet import Supernet

SPACE = MobileSpace(32, 3, 10)
TOLERANCE = 1e-5


def members(num_samples: int) -> list[Architecture]:
    """Both ends of the space with every block kind, then samples."""
    rng = np.random.default_rng(7)
    ends = [
        SPACE.architecture({**end.as_dict, **{f"stage{stage.index}.kind": kind for stage in SPACE.stages}})
        for end in (SPACE.smallest(), SPACE.largest())
        for kind in KINDS
    ]
    return ends + [SPACE.sample(rng) for _ in range(num_samples)]


def images_for(architecture: Architecture, count: int = 4) -> Tensor:
    side = SPACE.resolution(architecture)
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def expected_slice(member: Tensor, shared: Tensor) -> tuple[slice, ...]:
    """Leading channels, centred kernel; written down again, apart from the code under test."""
    margins = [0, 0, *((big - small) // 2 for small, big in zip(member.shape[2:], shared.shape[2:], strict=True))]
    return tuple(slice(margin, margin + extent) for margin, extent in zip(margins, member.shape, strict=False))


@pytest.fixture
def supernet() -> Supernet:
    """Norms and weights far from their initial values, so that a wrong slice would show."""
    torch.manual_seed(0)
    network = Supernet(SPACE)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.3)
    return network


@pytest.mark.parametrize("num_samples", [6, pytest.param(64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("is_training", [False, True], ids=["running statistics", "batch statistics"])
def test_a_cut_out_network_computes_what_the_supernet_does(
    supernet: Supernet, is_training: bool, num_samples: int
) -> None:
    supernet.train(is_training)
    for architecture in members(num_samples):
        images = images_for(architecture)
        network = supernet.cut_out(architecture)
        with torch.no_grad():
            alone, shared = network(images), supernet(images, architecture)
        assert network.training == is_training
        assert alone.abs().max() > 0.1, "the comparison must not be between zeros"
        assert (alone - shared).abs().max() <= TOLERANCE * max(1.0, float(shared.abs().max())), architecture.values


def test_members_differ_in_what_they_compute(supernet: Supernet) -> None:
    """Else the test above would pass with an architecture that is ignored."""
    supernet.eval()
    largest = SPACE.largest()
    images = images_for(largest)
    outputs = [supernet(images, a) for a in members(10) if SPACE.resolution(a) == 32]
    assert all(not torch.allclose(a, b) for i, a in enumerate(outputs) for b in outputs[:i])


def test_a_cut_out_network_is_the_spaces_own_module(supernet: Supernet) -> None:
    for architecture in members(4):
        network, plain = supernet.cut_out(architecture), SPACE.module(architecture)
        shapes = {name: tensor.shape for name, tensor in plain.state_dict().items()}
        assert {name: tensor.shape for name, tensor in network.state_dict().items()} == shapes


def test_a_cut_out_network_is_a_copy(supernet: Supernet) -> None:
    before = copy.deepcopy(supernet.state_dict())
    network = supernet.cut_out(SPACE.smallest())
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor += 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())


def test_training_a_member_moves_the_shared_running_statistics(supernet: Supernet) -> None:
    supernet.train()
    architecture = SPACE.smallest()
    norm = supernet.shared["stem"]["stem"].conv.norm  # type: ignore[index]
    before = norm.running_mean.clone()
    supernet(images_for(architecture), architecture)
    assert not torch.equal(norm.running_mean, before)
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize("index", range(8))
def test_gradients_touch_a_members_slices_only_and_are_its_own(supernet: Supernet, index: int) -> None:
    """``index``: the smallest with each of the four kinds, the largest with each."""
    architecture = members(0)[index]
    images, labels = images_for(architecture), torch.arange(4)
    network = supernet.cut_out(architecture)
    nn.functional.cross_entropy(network(images), labels).backward()
    nn.functional.cross_entropy(supernet(images, architecture), labels).backward()
    expected = _gradients_in_place(supernet, network, architecture)
    for name, parameter in supernet.named_parameters():
        if name not in expected:
            assert parameter.grad is None, f"{name} is no part of the member"
            continue
        assert parameter.grad is not None, name
        torch.testing.assert_close(
            parameter.grad, expected[name], rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def _gradients_in_place(supernet: Supernet, network: nn.Module, architecture: Architecture) -> dict[str, Tensor]:
    """The member's own gradients where its slices lie, zero elsewhere; by name of the shared parameter."""
    shared = dict(supernet.named_parameters())
    kinds = {place: SPACE.weights_kind(layer) for place, layer in SPACE.placed_layers(architecture)}
    expected = {}
    for name, parameter in network.named_parameters():
        place, _, rest = name.partition(".")
        shared_name = f"shared.{place}.{kinds[place]}.{rest}"
        expected[shared_name] = torch.zeros_like(shared[shared_name])
        expected[shared_name][expected_slice(parameter, shared[shared_name])] = parameter.grad
    return expected


def test_mbconv_and_mbconv_se_share_all_but_the_gate(supernet: Supernet) -> None:
    names = [name for name, _ in supernet.named_parameters()]
    assert not any(".mbconv." in name for name in names)
    plain, gated = (dict(supernet.cut_out(members(0)[i]).named_parameters()) for i in (0, 1))
    assert gated.keys() - plain.keys() and all(".gate." in name for name in gated.keys() - plain.keys())
    assert all(torch.equal(plain[name], gated[name]) for name in plain)


def test_moving_the_supernet_keeps_members_and_weights_together(supernet: Supernet) -> None:
    """``.double()`` replaces every tensor, as ``.to("cuda")`` does."""
    architecture = SPACE.largest()
    supernet(images_for(architecture), architecture)  # fills the cache
    supernet.double().eval()
    images = images_for(architecture).double()
    with torch.no_grad():
        found = supernet(images, architecture)
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, supernet.cut_out(architecture).double()(images))


def test_loading_weights_reaches_the_members(supernet: Supernet) -> None:
    architecture = SPACE.smallest()
    other = Supernet(SPACE).eval()
    images = images_for(architecture)
    other(images, architecture)
    other.load_state_dict(supernet.state_dict())
    torch.testing.assert_close(other(images, architecture), supernet.eval()(images, architecture))


def test_norms_that_end_a_residual_branch_start_small_and_no_others() -> None:
    scales = {n: m.weight[0].item() for n, m in Supernet(SPACE).named_modules() if isinstance(m, nn.BatchNorm2d)}
    small = {name for name, scale in scales.items() if scale == 0.25}
    assert small == {name for name in scales if name.endswith(("project.norm", "second.norm"))}
    assert {scales[name] for name in scales.keys() - small} == {1.0}
