"""Networks on their way from the race to the bundle: their files, what was measured of them, who wins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hwautoml.compilers import shipping_runtimes, traits_of
from hwautoml.core.form import Form
from hwautoml.core.measurement import Measurement
from hwautoml.core.space import Architecture
from hwautoml.devices.protocol import MeasureProtocol
from hwautoml.errors import LimitNotMetError, MeasurementError
from hwautoml.exporters import export_onnx
from hwautoml.pipeline.runs.context import RunContext
from hwautoml.pipeline.runs.journal import FINE_TUNED
from hwautoml.pipeline.runs.outcomes import Measured, Specialised
from hwautoml.store.files import read_tensors

if TYPE_CHECKING:
    from torch import nn

FINAL_PROTOCOL = MeasureProtocol(
    warmup_ms=30.0,
    min_rounds=40,
    max_rounds=150,
    target_relative_interval=0.005,
    max_model_sec=4.0,
    max_total_sec=25.0,
    num_singles=400,
)


@dataclass(frozen=True)
class TrainedNetwork:
    """Its weights lie in its folder (``weights_path``)."""

    architecture: Architecture
    accuracy_val: float


@dataclass(frozen=True)
class Finalist:
    """A fine-tuned candidate with its files and what was measured of them, by runtime."""

    architecture: Architecture
    accuracy_val: float
    files: Mapping[str, Path]
    measured: Mapping[str, Measurement]
    precision: str = "fp32"

    @property
    def runtime(self) -> str:
        """On which it is fastest."""
        return min(self.measured, key=lambda runtime: self.measured[runtime].median_ms)

    @property
    def form(self) -> Form:
        return Form(self.runtime, self.precision)

    @property
    def best(self) -> Measurement:
        return self.measured[self.runtime]

    def meets(self, limit_ms: float) -> bool:
        """With the whole 95 % interval of the median."""
        return self.best.interval_ms[1] <= limit_ms


def candidate_folder(run: RunContext, architecture: Architecture) -> Path:
    return run.folder / "candidates" / architecture.id


def weights_path(run: RunContext, architecture: Architecture) -> Path:
    return candidate_folder(run, architecture) / "weights.safetensors"


def load_network(run: RunContext, architecture: Architecture) -> nn.Module:
    """A fine-tuned network of the run, in evaluation mode."""
    network = run.space.module(architecture)
    tensors, _ = read_tensors(weights_path(run, architecture))
    network.load_state_dict(tensors)
    return network.eval()


def trained_networks(run: RunContext, specialised: Specialised | None = None) -> dict[str, TrainedNetwork]:
    """By architecture id: the finalists, or while the race is on every entrant that was trained."""
    scores = run.journal.fine_tuned_scores(run.space)
    task = run.dataset.task
    found = {key: TrainedNetwork(score.architecture, task.score(score.outcome)) for key, score in scores.items()}
    done = specialised or run.journal.outcome(Specialised)
    return found if done is None else {key: found[key] for key in done.finalists}


def export_architecture(
    run: RunContext, architecture: Architecture, path: Path, network: nn.Module | None = None
) -> Path:
    """Its ONNX file; with the weights of ``network``, by default its fine-tuned ones."""
    dataset = run.dataset
    metadata = {"dataset": dataset.name, "dataset_fingerprint": dataset.fingerprint, "target": run.target.name}
    export_onnx(
        load_network(run, architecture) if network is None else network,
        path,
        resolution=run.space.resolution(architecture),
        channels=dataset.channels,
        mean=dataset.mean,
        std=dataset.std,
        task=dataset.task,
        architecture=architecture,
        metadata=metadata,
    )
    return path


def network_outputs(run: RunContext, network: nn.Module, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(num_images, num_outputs) of a trained network with its normalisation and head, for images (n, H, W, C)."""
    import torch

    from hwautoml.exporters import Deployable

    dataset = run.dataset
    module = Deployable(network.cpu(), dataset.mean, dataset.std, dataset.task.activate).eval()
    with torch.no_grad():
        parts = np.array_split(images, max(len(images) // 250, 1))
        return np.concatenate([module(torch.from_numpy(part)).numpy() for part in parts])


def spread(num_images: int, number: int) -> list[int]:
    """Up to ``number`` indices, evenly over a split that is ordered by class."""
    return [int(i) for i in np.linspace(0, num_images - 1, min(number, num_images))]


def measured_finalists(run: RunContext) -> list[Finalist]:
    """From the journal; the latest measurement of each file counts.

    Raises:
        MeasurementError: no finalist could be measured on any runtime.
    """
    measured: dict[str, dict[str, Measurement]] = {}
    for runtime in run.runtimes:
        for key, found in run.journal.measurements(run.target.name, Form(runtime), weights=FINE_TUNED).items():
            measured.setdefault(key, {})[runtime] = found
    finalists = []
    for key, network in trained_networks(run).items():
        folder = candidate_folder(run, network.architecture)
        if key in measured:
            files = {r: folder / traits_of(r).artifact_name() for r in shipping_runtimes()}
            finalists.append(Finalist(network.architecture, network.accuracy_val, files, measured[key]))
    if not finalists:
        failures = dict((run.journal.outcome(Measured) or Measured()).failures)
        raise MeasurementError(f"no finalist could be measured on {run.target.name}: {failures}")
    return finalists


def choose_winner(run: RunContext, candidates: Sequence[Finalist]) -> Finalist:
    """The best validation accuracy among those that meet the limit by measurement.

    Raises:
        LimitNotMetError: none does; the nearest one and its files are kept.
    """
    passed = [c for c in candidates if c.meets(run.limit_ms)]
    if passed:
        return most_accurate(passed)
    nearest = min(candidates, key=lambda c: c.best.interval_ms[1])
    run.journal.set_nearest(nearest.architecture)
    run.journal.forget(Measured)  # noise may have decided: resuming measures again
    low, high = nearest.best.interval_ms
    raise LimitNotMetError(
        f"no fine-tuned candidate meets {run.limit_ms:g} ms on {run.target.name}; the nearest, "
        f"{nearest.architecture.id}, takes {nearest.best.median_ms:.3g} ms on {nearest.runtime} (measured, 95 % "
        f"interval {low:.3g} to {high:.3g})",
        fix=f"--latency-ms {high * 1.1:.2g}; the nearest one is kept: {nearest.files[nearest.runtime]}",
    )


def most_accurate(candidates: Sequence[Finalist]) -> Finalist:
    """On validation images; of equals, the fastest."""
    return max(candidates, key=lambda c: (c.accuracy_val, -c.best.median_ms))
