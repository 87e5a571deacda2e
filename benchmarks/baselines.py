"""Human-designed networks to compare with in the same run: two for 32x32 images, two for 224x224."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)
    )


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = conv(inputs, inner, 1) if expansion > 1 else nn.Identity()
        self.depthwise, self.project = conv(inner, inner, 3, stride, inner), conv(inner, outputs, 1)
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.relu6(self.expand(x))
        y = self.project(nn.functional.relu6(self.depthwise(y)))
        return x + y if self.is_residual else y


class MobileNetV2(nn.Module):
    """MobileNetV2 (Sandler et al. 2018) at half width, with the strides usual for CIFAR: 32, 32, 16, 8, 8, 4."""

    SETTING = ((1, 8, 1, 1), (6, 16, 2, 1), (6, 16, 3, 2), (6, 32, 4, 2), (6, 48, 3, 1), (6, 80, 3, 2), (6, 160, 1, 1))

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv(3, 16, 3), nn.ReLU6()]
        width = 16
        for expansion, outputs, repeats, stride in self.SETTING:
            for index in range(repeats):
                layers.append(InvertedResidual(width, outputs, stride if index == 0 else 1, expansion))
                width = outputs
        self.features = nn.Sequential(*layers, conv(width, 640, 1), nn.ReLU6())
        self.head = nn.Linear(640, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = conv(inputs, outputs, 3, stride), conv(outputs, outputs, 3)
        self.shortcut = nn.Identity() if stride == 1 and inputs == outputs else conv(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


class ResNet20(nn.Module):
    """ResNet-20 for CIFAR (He et al. 2015): 16, 32 and 64 channels, three blocks each."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        plan = [(16, 16, 1)] * 3 + [(16, 32, 2)] + [(32, 32, 1)] * 2 + [(32, 64, 2)] + [(64, 64, 1)] * 2
        self.features = nn.Sequential(conv(3, 16, 3), nn.ReLU(), *[Residual(*block) for block in plan])
        self.head = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


class ResNet18(nn.Module):
    """ResNet-18 for 224x224 images (He et al. 2015)."""

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        plan = [(64, 64, 1)] * 2 + [(64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)]
        blocks = [Residual(*block) for block in [*plan, (512, 512, 1)]]
        self.features = nn.Sequential(conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1), *blocks)
        self.head = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


class MobileNetV2ImageNet(nn.Module):
    """MobileNetV2 at full width for 224x224 images (Sandler et al. 2018, table 2)."""

    SETTING = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv(3, 32, 3, 2), nn.ReLU6()]
        width = 32
        for expansion, outputs, repeats, stride in self.SETTING:
            for index in range(repeats):
                layers.append(InvertedResidual(width, outputs, stride if index == 0 else 1, expansion))
                width = outputs
        self.features = nn.Sequential(*layers, conv(width, 1280, 1), nn.ReLU6())
        self.head = nn.Linear(1280, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


BASELINES: dict[str, type[nn.Module]] = {"resnet20": ResNet20, "mobilenetv2": MobileNetV2}
