"""Training against the clock: a supernet by the sandwich rule, or one network alone.

The learning rate follows the share of the time budget that has passed (one cycle: short
warm-up, cosine to zero), so a run uses the time it was given, whatever the machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hwautoml.core.space import Architecture
from hwautoml.core.task import Task
from hwautoml.supernets.memory import keep_freed_memory
from hwautoml.supernets.sandwich import Sandwich
from hwautoml.supernets.threads import ThreadTuner, max_threads

Batches = Callable[[torch.Generator], Iterator[tuple[Tensor, Tensor]]]
"""One epoch of shuffled, augmented training batches: images (N, C, H, W) with values 0..255, labels (N, ...)."""

StepLoss = Callable[[Tensor, Tensor], Tensor]
"""Runs forward *and backward* on one batch (several, for a sandwich) and returns the loss for display."""


MIN_GROWING_SIDE = 24


@dataclass(frozen=True)
class TrainSettings:
    """Plain SGD; the learning rate peaks at ``peak_learning_rate`` after ``warmup_share`` of the time."""

    batch_size: int = 128
    peak_learning_rate: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_share: float = 0.15
    gradient_clip: float = 5.0
    seed: int = 0


@dataclass(frozen=True)
class TrainProgress:
    """``share`` of the time budget that has passed, 0..1."""

    share: float
    seconds: float
    epochs: float
    images_per_sec: float
    loss: float


@dataclass
class TrainState:
    """What must survive an interruption, besides the weights."""

    seconds: float = 0.0
    images: int = 0
    steps: int = 0
    momentum: dict[str, Tensor] | None = None


def train(
    network: nn.Module,
    step: StepLoss,
    batches: Batches,
    *,
    budget_sec: float,
    settings: TrainSettings,
    state: TrainState,
    images_per_epoch: int,
    on_progress: Callable[[TrainProgress], None] | None = None,
    on_checkpoint: Callable[[TrainState], None] | None = None,
    checkpoint_every_sec: float = 20.0,
) -> TrainState:
    """Train until ``state.seconds`` reaches ``budget_sec``; always at least one step.

    ``on_checkpoint`` is called now and then, at the end, and when the user interrupts.
    """
    keep_freed_memory()
    optimizer = _optimizer(network, settings)
    _restore_momentum(optimizer, network, state.momentum)
    generator = torch.Generator().manual_seed(settings.seed + state.steps)
    before, started, saved = state.seconds, time.monotonic(), time.monotonic()
    images_before = state.images
    tuner = ThreadTuner() if next(network.parameters()).device.type == "cpu" else None
    network.train()
    try:
        while state.steps == 0 or state.seconds < budget_sec:
            for images, labels in batches(generator):
                share = min(state.seconds / budget_sec, 1.0) if budget_sec > 0 else 1.0
                for group in optimizer.param_groups:
                    group["lr"] = settings.peak_learning_rate * one_cycle(share, settings.warmup_share)
                optimizer.zero_grad(set_to_none=True)
                loss = step(images, labels)
                nn.utils.clip_grad_norm_(network.parameters(), settings.gradient_clip)
                optimizer.step()
                previous, now = state.seconds, time.monotonic()
                state.seconds, state.steps = before + now - started, state.steps + 1
                state.images += len(labels)
                if tuner is not None:
                    tuner.after_step(state.seconds - previous)
                if on_progress is not None:
                    speed = (state.images - images_before) / max(now - started, 1e-9)
                    on_progress(
                        TrainProgress(share, state.seconds, state.images / images_per_epoch, speed, float(loss))
                    )
                if on_checkpoint is not None and now - saved > checkpoint_every_sec:
                    _save(optimizer, network, state, on_checkpoint)
                    saved = time.monotonic()
                if state.seconds >= budget_sec:
                    break
    finally:
        if tuner is not None:
            torch.set_num_threads(tuner.best)
        # Also on Ctrl-C: an interrupted run goes on from its last step.
        if on_checkpoint is not None:
            _save(optimizer, network, state, on_checkpoint)
    return state


def supernet_step(
    supernet: nn.Module,
    sandwich: Sandwich,
    *,
    task: Task,
    num_random: int,
    rng: np.random.Generator,
    dtype: torch.dtype | None,
    resize: Callable[[Tensor, Architecture], Tensor],
    device: str,
) -> StepLoss:
    """One sandwich step with in-place distillation (BigNAS, Yu et al. 2020).

    The largest network learns from the labels; ``num_random`` random ones and the smallest in equal parts from
    the labels and from the largest, whose answers are poor for much of a short training (labels as well:
    93.7 % against 92.4 % mean accuracy of random members on the digits).
    """

    def step(images: Tensor, labels: Tensor) -> Tensor:
        largest = sandwich.largest(rng)
        teacher, loss = None, None
        students = [*(sandwich.random(rng) for _ in range(num_random)), sandwich.smallest(rng)]
        for architecture in [largest, *students]:
            with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
                logits = supernet(resize(images, architecture), architecture).float()
            hard = task.loss(logits, labels)
            if teacher is None:
                loss, teacher = hard, logits.detach()
                hard.backward()
            else:
                (0.5 * hard + 0.5 * task.distillation_loss(logits, teacher)).backward()
        assert loss is not None
        return loss.detach()

    return step


def network_step(network: nn.Module, *, task: Task, dtype: torch.dtype | None, device: str) -> StepLoss:
    """The task's loss, plainly."""

    def step(images: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
            logits = network(images).float()
        loss = task.loss(logits, labels)
        loss.backward()
        return loss.detach()

    return step


def with_growing_images(step: StepLoss, share: Callable[[], float], small_share: float = 0.5) -> StepLoss:
    """Three quarters of the side for the first ``small_share`` of a training, of which ``share()`` has passed.

    Progressive resizing (Tan & Le 2021, "EfficientNetV2"): early steps cost little more than half and teach about as
    much. One network, one seed, 1.2 epochs' worth of CIFAR-10: 61.5 % with it, 57.8 % without (validation). Not for
    images so small that it takes away what is to be seen.
    """

    def step_on_grown(images: Tensor, labels: Tensor) -> Tensor:
        side = images.shape[-1]
        if side >= MIN_GROWING_SIDE and share() < small_share:
            small = round(0.375 * side) * 2
            images = F.interpolate(images, (small, small), mode="bilinear", antialias=True)
            images = images.contiguous(memory_format=torch.channels_last)
        return step(images, labels)

    return step_on_grown


def one_cycle(share: float, warmup_share: float) -> float:
    """Factor of the peak learning rate at ``share`` of the training: linear up, cosine down to zero."""
    if share < warmup_share:
        return 0.1 + 0.9 * share / warmup_share
    return 0.5 * (1 + math.cos(math.pi * (share - warmup_share) / (1 - warmup_share)))


def autocast_dtype(device: str) -> torch.dtype | None:
    """bfloat16 where the hardware multiplies it natively, else None (float32)."""
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else None
    capabilities = torch.cpu.get_capabilities()
    return torch.bfloat16 if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else None


@dataclass(frozen=True)
class ComputeSetup:
    """``dtype`` None: float32 throughout."""

    dtype: torch.dtype | None
    num_threads: int


def fastest_setup(
    network: nn.Module, make_step: Callable[[torch.dtype | None], StepLoss], images: Tensor, labels: Tensor
) -> ComputeSetup:
    """Precision and thread count, chosen by timing this very step, and put into force.

    Small maps gain nothing from bfloat16, and lose to a second thread what it costs to wait for it; on a
    busy machine more so. Gradients are thrown away, and BatchNorm's statistics put back.
    """
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    device = images.device.type
    dtypes = [None] if autocast_dtype(device) is None else [None, autocast_dtype(device)]
    threads = [torch.get_num_threads()] if device != "cpu" else sorted({1, max_threads()})
    images, labels = images[:64], labels[:64]
    best: tuple[float, ComputeSetup] | None = None
    for setup in (ComputeSetup(dtype, number) for dtype in dtypes for number in threads):
        torch.set_num_threads(setup.num_threads)
        step = make_step(setup.dtype)
        step(images, labels)
        started = time.monotonic()
        step(images, labels)
        seconds = time.monotonic() - started
        if best is None or seconds < best[0]:
            best = (seconds, setup)
    assert best is not None
    for name, buffer in network.named_buffers():
        buffer.copy_(buffers[name])
    torch.set_num_threads(best[1].num_threads)
    return best[1]


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _optimizer(network: nn.Module, settings: TrainSettings) -> torch.optim.SGD:
    """SGD with Nesterov momentum; no decay on norms and biases."""
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=0.0, momentum=settings.momentum, nesterov=True)


def _save(
    optimizer: torch.optim.SGD, network: nn.Module, state: TrainState, on_checkpoint: Callable[[TrainState], None]
) -> None:
    state.momentum = {
        name: optimizer.state[p]["momentum_buffer"]
        for name, p in network.named_parameters()
        if optimizer.state[p].get("momentum_buffer") is not None
    }
    on_checkpoint(state)


def _restore_momentum(optimizer: torch.optim.SGD, network: nn.Module, momentum: dict[str, Tensor] | None) -> None:
    for name, p in network.named_parameters():
        if momentum and name in momentum:
            optimizer.state[p]["momentum_buffer"] = momentum[name].to(p.device).clone()
