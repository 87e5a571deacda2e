"""Scores members of a trained supernet on a fixed part of the validation split."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from hwautoml.core.space import Architecture
from hwautoml.core.task import Outcome, Task
from hwautoml.supernets.scoring import Normalised, recalibrate, score
from hwautoml.supernets.supernet import Supernet

MIN_VALIDATION_IMAGES, MAX_VALIDATION_IMAGES = 500, 2000
RECALIBRATION_IMAGES, RECALIBRATION_BATCH = 512, 128
LARGE_RESOLUTION = 64
VALIDATION_BATCH = 250

Batches = list[tuple[Tensor, Tensor]]


class Images(Protocol):
    """One split of a data set, as far as scoring needs it."""

    @property
    def num_images(self) -> int: ...

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
        resolution: int | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (N, C, H, W) with values 0..255 and labels (N, ...), as of ``datasets.Split.batches``."""
        ...


class LabelledImages(Protocol):
    """A data set, as far as scoring needs it; ``mean`` and ``std`` are per channel, of images in 0..1."""

    @property
    def train(self) -> Images: ...
    @property
    def val(self) -> Images: ...
    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...
    @property
    def task(self) -> Task: ...


class Evaluator:
    """``trust`` 0..1 in the supernet's scores: those that say little are made of fewer images, to have more."""

    def __init__(self, supernet: Supernet, images: LabelledImages, *, trust: float, device: str) -> None:
        self.supernet, self.images, self.trust, self.device = supernet, images, trust, device
        self._recalibration: dict[int, Batches] = {}
        self._validation: dict[int, Batches] = {}

    def __call__(self, architecture: Architecture) -> Outcome:
        """Of the member, as the task has it."""
        network = self.recalibrated(architecture)
        scored = Normalised(network, self.images.mean, self.images.std).to(self.device)
        batches = self.validation_batches(self.supernet.space.resolution(architecture))
        return score(scored, batches, self.images.task)

    def recalibrated(self, architecture: Architecture) -> nn.Module:
        """The member cut out, with BatchNorm statistics of its own."""
        network = self.supernet.cut_out(architecture)
        normalised = Normalised(network, self.images.mean, self.images.std).to(self.device)
        resolution = self.supernet.space.resolution(architecture)
        if resolution not in self._recalibration:
            self._recalibration[resolution] = recalibration_batches(self.images.train, resolution, self.device)
        recalibrate(normalised, self._recalibration[resolution])
        return network

    def validation_batches(self, resolution: int) -> Batches:
        if resolution not in self._validation:
            # Shuffled: a split is ordered by class, and a part of it must hold them all.
            batches = self.images.val.batches(
                VALIDATION_BATCH,
                shuffle=True,
                generator=torch.Generator().manual_seed(0),
                device=self.device,
                resolution=resolution,
            )
            # Large images stay in memory as floats for every score: fewer of them.
            share = min(1.0, (LARGE_RESOLUTION / resolution) ** 2) * self.trust
            self._validation[resolution] = _first(
                batches, max(round(share * MAX_VALIDATION_IMAGES), MIN_VALIDATION_IMAGES)
            )
        return self._validation[resolution]


def recalibration_batches(train: Images, resolution: int, device: str) -> Batches:
    """A fixed, shuffled part of the training images without augmentation."""
    # Each batch counts alike in the statistics, so none may be a remainder of a few images.
    number = min(train.num_images, RECALIBRATION_IMAGES)
    size = math.ceil(number / math.ceil(number / RECALIBRATION_BATCH))
    generator = torch.Generator().manual_seed(0)
    batches = train.batches(size, shuffle=True, generator=generator, device=device, resolution=resolution)
    return _first(batches, RECALIBRATION_IMAGES)


def _first(batches: Iterable[tuple[Tensor, Tensor]], num_images: int) -> Batches:
    taken, count = [], 0
    for images, labels in batches:
        taken.append((images, labels))
        count += len(labels)
        if count >= num_images:
            break
    return taken
