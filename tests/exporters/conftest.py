"""Small networks with the blocks that the spaces use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from hwautoml.exporters import export_onnx
from hwautoml.tasks.classification import Classification


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, 8, 1)
        self.expand = nn.Conv2d(8, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.expand(torch.relu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * nn.functional.hardsigmoid(gate)


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *convolution(channels, 4 * channels, 1),
            nn.ReLU6(),
            *convolution(4 * channels, 4 * channels, 3, groups=4 * channels),
            nn.Hardswish(),
            SqueezeExcite(4 * channels),
            *convolution(4 * channels, channels, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class Pool(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def convolution(in_channels: int, out_channels: int, kernel_size: int, groups: int = 1, stride: int = 1) -> list:
    padding = kernel_size // 2
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels)]


def small_network(channels: int = 3, num_classes: int = 5, seed: int = 0) -> nn.Module:
    """With batch-normalisation statistics of its own, so that folding them matters."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        *convolution(channels, 16, 3, stride=2),
        nn.SiLU(),
        Residual(16),
        Pool(),
        nn.Dropout(0.3),
        nn.Linear(16, num_classes),
    )
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(16, channels, 16, 16))
    return network.eval()


@pytest.fixture
def network() -> nn.Module:
    return small_network()


@pytest.fixture(scope="session")
def exported_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``network`` as it ships: uint8 images to probabilities, normalised by 0.5 and 0.25; not to be changed."""
    return export_onnx(
        small_network(),
        tmp_path_factory.mktemp("exported") / "fp32.onnx",
        resolution=16,
        channels=3,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        task=Classification(tuple("abcde")),
        architecture={"small": True},
        metadata={"dataset": "noise"},
    ).path


@pytest.fixture
def grey_network() -> nn.Module:
    return small_network(channels=1)
