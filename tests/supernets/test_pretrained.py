from __future__ import annotations

import numpy as np
import pytest
import torch

from hwautoml.datasets import load_dataset
from hwautoml.datasets.dataset import ImageDataset
from hwautoml.spaces.efficientnet_lite import EfficientNetLite0
from hwautoml.starts import load_start
from hwautoml.supernets.pretrained import PretrainedMembers, fit_head, head_of, load_shared
from hwautoml.supernets.supernet import Supernet
from hwautoml.tasks import load_task

CLASSIFICATION, _ = load_task("classification").from_labels(np.arange(3), "labels")


def test_a_head_tells_apart_what_can_be_told_apart_whatever_the_scale() -> None:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    features = torch.randn(90, 5, generator=rng)
    features[:, 0] += 6.0 * labels
    features = features * torch.tensor([1e-3, 1.0, 100.0, 1.0, 1.0]) + torch.tensor([5.0, 0, 0, 0, -7.0])
    weight, bias = fit_head(features, labels, CLASSIFICATION, penalty=0.1)
    assert weight.shape == (3, 5) and bias.shape == (3,)
    assert ((features @ weight.T + bias).argmax(1) == labels).float().mean() > 0.95


def test_a_heavier_penalty_makes_a_smaller_head() -> None:
    labels = torch.arange(30) % 3
    features = torch.randn(30, 50, generator=torch.Generator().manual_seed(1))
    sizes = [fit_head(features, labels, CLASSIFICATION, penalty=p)[0].norm() for p in (0.1, 10.0, 1000.0)]
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    """Three kinds of stripes in noise, 64 x 64 pixels."""
    rng, side = np.random.default_rng(0), np.arange(64)
    labels = np.arange(90) % 3
    waves = [np.add.outer(side * 0, side), np.add.outer(side, side * 0), np.add.outer(side, side)]
    images = np.stack([128 + 60 * np.sin(waves[label] / 2.5) + rng.normal(0, 30, (64, 64)) for label in labels])
    path = tmp_path_factory.mktemp("stripes") / "stripes.npz"
    np.savez(path, x=np.clip(np.repeat(images[..., None], 3, -1), 0, 255).astype(np.uint8), y=labels)
    return load_dataset(path)


def test_members_are_probed_without_training(stripes: ImageDataset) -> None:
    space = EfficientNetLite0(64, 3, 3)
    supernet = Supernet(space)
    load_shared(supernet, load_start("efficientnet-lite0").weights(space))
    members = PretrainedMembers(supernet, stripes, device="cpu")
    narrow = {name: 3 if name.endswith("expansion") else value for name, value in space.largest().as_dict.items()}
    for architecture, at_least in ((space.largest(), 0.9), (space.architecture(narrow), 0.6)):
        outcome = members(architecture)
        assert outcome.sum() == stripes.train.num_images + stripes.val.num_images
        assert stripes.task.score(outcome) > at_least, "a third would be guessing"
    network = members.recalibrated(space.largest())
    assert not network.training and head_of(network).weight.abs().sum() > 0
