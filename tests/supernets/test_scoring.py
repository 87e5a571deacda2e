import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hwautoml.spaces.mobile import MobileSpace
from hwautoml.supernets.scoring import Normalised, recalibrate, score
from hwautoml.supernets.supernet import Supernet
from hwautoml.tasks.classification import Classification

SPACE = MobileSpace(8, 1, 4)
TASK = Classification(tuple("abcd"))


class Lookup(nn.Module):
    """Predicts the class that an image's first pixel names."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.one_hot(images[:, 0, 0, 0].long(), 3).float()


def batches(seed: int, count: int = 3, scale: float = 1.0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (scale * torch.randn(16, 1, 8, 8, generator=generator) + scale, torch.randint(0, 4, (16,), generator=generator))
        for _ in range(count)
    ]


def member() -> nn.Module:
    torch.manual_seed(0)
    return Supernet(SPACE).cut_out(SPACE.largest())


def spoil(network: nn.Module) -> nn.Module:
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.running_mean, std=5.0)
        nn.init.uniform_(norm.running_var, 0.01, 100.0)
        norm.num_batches_tracked.fill_(1234)
    return network


def images_naming(*classes: int) -> Tensor:
    return torch.tensor(classes, dtype=torch.float32).view(-1, 1, 1, 1)


def test_the_confusion_matrix_counts_by_hand() -> None:
    task = Classification(tuple("abc"))
    found = score(
        Lookup(),
        [(images_naming(0, 1, 2, 2), torch.tensor([0, 1, 2, 0])), (images_naming(1, 1), torch.tensor([2, 1]))],
        task,
    )
    assert found.tolist() == [[1, 0, 1], [0, 2, 0], [0, 1, 1]], "rows are true classes, columns predictions"
    assert found.dtype == np.int64
    assert task.score(found) == pytest.approx(4 / 6)


def test_scoring_switches_to_evaluation_and_leaves_the_statistics_alone() -> None:
    network = member().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    score(network, batches(0), TASK)
    assert not network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_recalibration_does_not_depend_on_earlier_statistics() -> None:
    clean, spoiled = member(), spoil(member())
    for network in (clean, spoiled):
        recalibrate(network, batches(0))
    for name, tensor in clean.state_dict().items():
        torch.testing.assert_close(spoiled.state_dict()[name], tensor, msg=lambda m, n=name: f"{n}: {m}")
    images = batches(1, count=1)[0][0]
    torch.testing.assert_close(spoiled(images), clean(images))


def test_recalibration_changes_scores() -> None:
    network = spoil(member())
    data = batches(3, count=8)
    before = score(network, data, TASK)
    recalibrate(network, batches(0))
    after = score(network, data, TASK)
    assert before.sum() == after.sum() == 8 * 16
    assert not np.array_equal(before, after)


def test_recalibrated_statistics_are_the_average_over_all_batches() -> None:
    network = nn.Sequential(nn.BatchNorm2d(1))
    data = batches(0, count=3, scale=2.0)
    recalibrate(network, data)
    norm = network[0]
    torch.testing.assert_close(norm.running_mean[0], torch.stack([x.mean() for x, _ in data]).mean())
    torch.testing.assert_close(norm.running_var[0], torch.stack([x.var() for x, _ in data]).mean())


def test_recalibration_restores_momentum_and_ends_in_evaluation_mode() -> None:
    network = member()
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    norms[0].momentum = 0.37
    weights = {name: p.detach().clone() for name, p in network.named_parameters()}
    recalibrate(network, batches(0))
    assert norms[0].momentum == 0.37 and norms[1].momentum == 0.1
    assert not network.training
    assert all(torch.equal(p, weights[name]) for name, p in network.named_parameters()), "only statistics change"


def test_recalibration_makes_a_network_indifferent_to_the_scale_of_its_input() -> None:
    """What BatchNorm is for; without recalibration the two would disagree."""
    network, scaled = member(), member()
    recalibrate(network, batches(0, scale=1.0))
    recalibrate(scaled, batches(0, scale=100.0))
    images = batches(5, count=1)[0][0]
    torch.testing.assert_close(network(images), scaled(100 * images), rtol=1e-2, atol=1e-3)


def test_normalised_undoes_mean_and_deviation_of_pixels() -> None:
    module = Normalised(nn.Identity(), (0.5, 0.25), (0.5, 0.1))
    images = torch.tensor([255.0, 0.25 * 255]).view(1, 2, 1, 1)
    torch.testing.assert_close(module(images), torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))


def test_normalised_hands_the_architecture_on() -> None:
    torch.manual_seed(0)
    supernet = Supernet(SPACE).eval()
    images = 255 * torch.rand(2, 1, 8, 8)
    expected = supernet((images - 127.5) / 63.75, SPACE.largest())
    torch.testing.assert_close(Normalised(supernet, (0.5,), (0.25,))(images, SPACE.largest()), expected)
