"""Stage: one supernet, trained for its share of the budget; continues from its checkpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwautoml.core.duration import format_duration
from hwautoml.core.space import Architecture
from hwautoml.pipeline.runs.job import Job
from hwautoml.pipeline.runs.utilisation import batch_size, sandwich_of
from hwautoml.store.files import read_tensors, write_tensors

if TYPE_CHECKING:
    import torch

    from hwautoml.datasets import ImageDataset
    from hwautoml.supernets.supernet import Supernet
    from hwautoml.supernets.training import TrainProgress, TrainState

CHECKPOINT = "checkpoints/supernet.safetensors"


def load_supernet(job: Job) -> Supernet:
    """The trained supernet of a run, in evaluation mode."""
    import torch

    from hwautoml.supernets.supernet import Supernet
    from hwautoml.supernets.training import default_device

    supernet = Supernet(job.space)
    tensors, _ = read_tensors(job.folder / CHECKPOINT)
    supernet.load_state_dict({name[4:]: tensor for name, tensor in tensors.items() if name.startswith("net.")})
    return supernet.to(default_device(), memory_format=torch.channels_last).eval()


def train_supernet(job: Job) -> None:
    if job.store.stage("train") is not None:
        return
    with job.timed_stage("train") as payload:
        payload.update(_train(job))


def _train(job: Job) -> dict[str, object]:
    import torch

    from hwautoml.supernets.scoring import Normalised
    from hwautoml.supernets.supernet import Supernet
    from hwautoml.supernets.training import TrainSettings, default_device, fastest_setup, supernet_step, train

    began = time.monotonic()
    torch.manual_seed(job.settings.seed)
    device, dataset = default_device(), job.dataset
    supernet = Supernet(job.space)
    path = job.folder / CHECKPOINT
    state = restore(path, supernet)
    model = Normalised(supernet, dataset.mean, dataset.std).to(device, memory_format=torch.channels_last).train()
    settings = TrainSettings(batch_size=batch_size(dataset.train.num_images), seed=job.settings.seed)

    sandwich = sandwich_of(job)

    def make_step(dtype: torch.dtype | None):  # type: ignore[no-untyped-def]
        return supernet_step(
            model,
            sandwich,
            task=dataset.task,
            num_random=1,
            rng=np.random.default_rng(job.settings.seed + state.steps),
            dtype=dtype,
            resize=_resizer(job),
            device=device,
        )

    batches = training_batches(dataset, settings.batch_size, device)
    images, labels = next(iter(batches(torch.Generator().manual_seed(0))))
    setup = fastest_setup(supernet, make_step, images, labels)
    state = train(
        supernet,
        make_step(setup.dtype),
        batches,
        budget_sec=job.plan.train - (time.monotonic() - began),
        settings=settings,
        state=state,
        images_per_epoch=dataset.train.num_images,
        on_progress=training_listener(job, "train", job.plan.train),
        on_checkpoint=lambda current: checkpoint(job, path, supernet, current),
    )
    return {"images": state.images, "steps": state.steps, "epochs": state.images / dataset.train.num_images}


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


def training_listener(job: Job, stage: str, budget_sec: float) -> Callable[[TrainProgress], None]:
    def listen(progress: TrainProgress) -> None:
        left = format_duration(max(budget_sec - progress.seconds, 0))
        speed = f"{progress.images_per_sec:,.0f} images/s"
        text = f"{speed}, epoch {progress.epochs:.1f}, loss {progress.loss:.3f}, {left} left"
        job.report(stage, min(progress.share, 0.999), text)

    return listen


def checkpoint(job: Job, path: Path, network: torch.nn.Module, state: TrainState) -> None:
    """Weights, momentum and counters in one file, so that they can never disagree; and the time spent so far."""
    job.save_elapsed()
    tensors = {f"net.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"momentum.{name}": tensor for name, tensor in (state.momentum or {}).items()}
    counters = {"seconds": state.seconds, "images": state.images, "steps": state.steps}
    write_tensors(path, tensors, {"state": json.dumps(counters)})


def restore(path: Path, network: torch.nn.Module) -> TrainState:
    """Load a checkpoint into ``network`` and return its state; a fresh state when there is none."""
    from hwautoml.supernets.training import TrainState

    if not path.is_file():
        return TrainState()
    tensors, metadata = read_tensors(path)
    network.load_state_dict({name[4:]: tensor for name, tensor in tensors.items() if name.startswith("net.")})
    momentum = {name[9:]: tensor for name, tensor in tensors.items() if name.startswith("momentum.")}
    return TrainState(**json.loads(metadata["state"]), momentum=momentum)


def _resizer(job: Job):  # type: ignore[no-untyped-def]
    import torch
    from torch.nn import functional

    def resize(images: torch.Tensor, architecture: Architecture) -> torch.Tensor:
        side = job.space.resolution(architecture)
        if images.shape[-1] == side:
            return images
        resized = functional.interpolate(images, (side, side), mode="bilinear", antialias=True)
        return resized.contiguous(memory_format=torch.channels_last)

    return resize
