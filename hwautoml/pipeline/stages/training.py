"""Stage: one supernet, trained for its share of the budget; continues from its checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwautoml.core.duration import format_duration
from hwautoml.core.space import Architecture
from hwautoml.pipeline.runs.context import RunContext
from hwautoml.pipeline.runs.outcomes import Specialised, Trained
from hwautoml.pipeline.runs.resources import Resources, batch_size
from hwautoml.store.checkpoints import Checkpoint, read_checkpoint, write_checkpoint

if TYPE_CHECKING:
    import torch

    from hwautoml.datasets import ImageDataset
    from hwautoml.supernets.supernet import Supernet
    from hwautoml.supernets.training import StepLoss, TrainProgress, TrainState

CHECKPOINT = "checkpoints/supernet.safetensors"


def load_supernet(run: RunContext) -> Supernet:
    """The trained supernet of a run, in evaluation mode."""
    import torch

    from hwautoml.supernets.supernet import Supernet
    from hwautoml.supernets.training import default_device

    supernet = Supernet(run.space)
    supernet.load_state_dict(dict(read_checkpoint(run.folder / CHECKPOINT).weights))
    supernet.to(default_device(), memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own gap
    return supernet.eval()


def train_supernet(run: RunContext, resources: Resources, budget_sec: float) -> Trained:
    """Whose weights are no longer looked at once the finalists have their own."""
    trained = run.journal.outcome(Trained)
    if trained is not None and run.journal.outcome(Specialised) is not None:
        return trained
    return run.once(Trained, lambda: _train(run, resources, budget_sec), lambda _: [run.folder / CHECKPOINT])


def _train(run: RunContext, resources: Resources, budget_sec: float) -> Trained:
    import torch

    from hwautoml.supernets.resizing import resized
    from hwautoml.supernets.scoring import Normalised
    from hwautoml.supernets.supernet import Supernet
    from hwautoml.supernets.training import TrainSettings, default_device, fastest_setup, supernet_step, train

    began = time.monotonic()
    torch.manual_seed(run.settings.seed)
    device, dataset = default_device(), run.dataset
    supernet = Supernet(run.space)
    path = run.folder / CHECKPOINT
    state = restore(path, supernet)
    if state.steps == 0:
        run.journal.forget_shared_scores()  # of a supernet whose checkpoint was lost
    model = Normalised(supernet, dataset.mean, dataset.std).train()
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own gap
    settings = TrainSettings(batch_size=batch_size(dataset.train.num_images), seed=run.settings.seed)
    sandwich = resources.sandwich()

    def resize(images: torch.Tensor, architecture: Architecture) -> torch.Tensor:
        return resized(images, run.space.resolution(architecture))

    def make_step(dtype: torch.dtype | None) -> StepLoss:
        rng = np.random.default_rng(run.settings.seed + state.steps)
        return supernet_step(
            model, sandwich, task=dataset.task, num_random=1, rng=rng, dtype=dtype, resize=resize, device=device
        )

    batches = training_batches(dataset, settings.batch_size, device)
    images, labels = next(iter(batches(torch.Generator().manual_seed(0))))
    setup = fastest_setup(supernet, make_step, images, labels)
    state = train(
        supernet,
        make_step(setup.dtype),
        batches,
        budget_sec=budget_sec - (time.monotonic() - began),
        settings=settings,
        state=state,
        images_per_epoch=dataset.train.num_images,
        on_progress=training_listener(run, "train", budget_sec),
        on_checkpoint=lambda current: checkpoint(run, path, supernet, current),
    )
    return Trained(state.images, state.steps, state.images / dataset.train.num_images)


def training_batches(
    dataset: ImageDataset, size: int, device: str, resolution: int | None = None
) -> Callable[[torch.Generator], Iterator[tuple[torch.Tensor, torch.Tensor]]]:
    from hwautoml.datasets import default_augment

    augment = default_augment(dataset)

    def epoch(generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return dataset.train.batches(
            min(size, dataset.train.num_images),
            shuffle=True,
            generator=generator,
            augment=augment,
            device=device,
            resolution=resolution,
            drop_last=True,
        )

    return epoch


def training_listener(run: RunContext, stage: str, budget_sec: float) -> Callable[[TrainProgress], None]:
    def listen(progress: TrainProgress) -> None:
        left = format_duration(max(budget_sec - progress.seconds, 0))
        speed = f"{progress.images_per_sec:,.0f} images/s"
        text = f"{speed}, epoch {progress.epochs:.1f}, loss {progress.loss:.3f}, {left} left"
        run.report(stage, min(progress.share, 0.999), text)

    return listen


def checkpoint(run: RunContext, path: Path, network: torch.nn.Module, state: TrainState) -> None:
    """Beside it the time that the run has taken so far, so that a killed run does not get it twice."""
    run.journal.save_elapsed()
    counters = {"seconds": state.seconds, "images": state.images, "steps": state.steps}
    write_checkpoint(path, Checkpoint(network.state_dict(), state.momentum or {}, counters))


def restore(path: Path, network: torch.nn.Module) -> TrainState:
    """Load a checkpoint into ``network`` and return its state; a fresh state when there is none."""
    from hwautoml.supernets.training import TrainState

    if not path.is_file():
        return TrainState()
    found = read_checkpoint(path)
    network.load_state_dict(dict(found.weights))
    counts = found.counters
    return TrainState(counts["seconds"], int(counts["images"]), int(counts["steps"]), dict(found.momentum))
