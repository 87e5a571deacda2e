"""A data set's labels are the task's business: their type, their shape, and how they are split."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

import hwautoml.core.plugins
from hwautoml.core.plugins import Plugins
from hwautoml.core.task import Labels
from hwautoml.datasets import load_dataset
from hwautoml.errors import UnknownNameError
from hwautoml.tasks import TASKS
from hwautoml.tasks.classification import Classification


@dataclass(frozen=True)
class Corners(Classification):
    """Two numbers per image; those whose first is above the mean are a stratum. Only what loading asks for is real."""

    mean: float = 0.0

    name: ClassVar[str] = "corners"

    @classmethod
    def from_labels(cls, given: Labels, origin: str) -> tuple[Corners, Labels]:
        numbers = given.astype(np.float32).reshape(len(given), -1)
        return cls(("x", "y"), float(numbers[:, 0].mean())), numbers

    def strata(self, labels: Labels) -> tuple[np.ndarray, tuple[str, ...]]:
        return (labels[:, 0] > self.mean).astype(np.int64), ("left", "right")


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("corners", f"{__name__}:Corners", "hwautoml.tasks")
    monkeypatch.setattr(hwautoml.core.plugins, "entry_points", lambda group: [entry])
    found = Plugins("task", "hwautoml.tasks", TASKS.built_in)
    monkeypatch.setattr("hwautoml.tasks.TASKS", found)


def test_an_npz_may_hold_rows_of_numbers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, points = rng.integers(0, 256, (40, 8, 8), dtype=np.uint8), rng.uniform(0, 8, (40, 2))
    np.savez(tmp_path / "set.npz", x=images, y=points)
    dataset = load_dataset(tmp_path / "set.npz", task="corners")
    assert dataset.task.name == "corners" and dataset.classes == ("x", "y")
    for split in (dataset.train, dataset.val, dataset.test):
        assert {bool(right) for right in split.labels[:, 0] > points[:, 0].mean()} == {True, False}, "both strata"
        for image, label in zip(split.images_uint8(), split.labels, strict=True):
            index = next(i for i in range(40) if np.array_equal(images[i], image[..., 0]))
            assert label.tolist() == pytest.approx(points[index].tolist())
    batch, labels = next(iter(dataset.train.batches(6)))
    assert batch.shape == (6, 1, 8, 8) and labels.shape == (6, 2) and labels.dtype == torch.float32


def test_names_of_folders_are_texts_to_a_task(make_folder) -> None:  # type: ignore[no-untyped-def]
    dataset = load_dataset(make_folder({"0.5": 8, "12": 8}), task="corners")
    assert set(dataset.train.labels.flatten().tolist()) == {0.5, 12.0}


def test_an_unknown_task_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown task 'corner'; known: corners, classification"):
        load_dataset(tmp_path / "nowhere.npz", task="corner")
