from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hwautoml.core.space import Architecture
from hwautoml.spaces.mobile import KINDS, MobileSpace
from hwautoml.supernets.sandwich import Sandwich
from hwautoml.supernets.supernet import Supernet
from hwautoml.supernets.threads import max_threads
from hwautoml.supernets.training import (
    Batches,
    ComputeSetup,
    TrainProgress,
    TrainSettings,
    TrainState,
    fastest_setup,
    network_step,
    one_cycle,
    supernet_step,
    train,
    with_growing_images,
)
from hwautoml.tasks.classification import Classification

SETTINGS = TrainSettings(batch_size=12, peak_learning_rate=0.5)
FOREVER_SEC = 1e7  # so long that the learning rate stays at its first value, whatever the machine
SPACE = MobileSpace(8, 1, 3)
TASK = Classification(tuple("abc"))


def stripes(seed: int, count: int = 12) -> tuple[Tensor, Tensor]:
    """Three classes that differ in the rows that are bright."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = 0.3 * torch.randn(count, 1, 8, 8, generator=generator)
    for image, label in zip(images, labels, strict=True):
        image[:, int(label) :: 3] += 1.0
    return images, labels


def three_batches(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    yield from (stripes(seed) for seed in range(3))


def same_batch(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield stripes(0)


def small_network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3))


def interrupt_after(steps: int, seen: list[TrainProgress] | None = None) -> Callable[[TrainProgress], None]:
    """Ctrl-C in the middle of training, at a known step."""
    count = itertools.count(1)

    def listen(progress: TrainProgress) -> None:
        if seen is not None:
            seen.append(progress)
        if next(count) == steps:
            raise KeyboardInterrupt

    return listen


def train_steps(
    network: nn.Module,
    steps: int,
    *,
    state: TrainState | None = None,
    batches: Batches = same_batch,
    step: Callable[[Tensor, Tensor], Tensor] | None = None,
    seen: list[TrainProgress] | None = None,
    settings: TrainSettings = SETTINGS,
) -> TrainState:
    """Exactly ``steps`` steps, ended by an interruption; returns what the checkpoint was given."""
    kept: list[TrainState] = []
    with pytest.raises(KeyboardInterrupt):
        train(
            network,
            step or network_step(network, task=TASK, dtype=None, device="cpu"),
            batches,
            budget_sec=FOREVER_SEC,
            settings=settings,
            state=state or TrainState(),
            images_per_epoch=36,
            on_progress=interrupt_after(steps, seen),
            on_checkpoint=lambda current: kept.append(copy.deepcopy(current)),
        )
    assert len(kept) == 1, "an interruption writes one checkpoint"
    return kept[0]


def test_the_loss_of_a_network_falls() -> None:
    network, seen = small_network(), []
    train_steps(network, 60, batches=three_batches, seen=seen)
    assert np.mean([p.loss for p in seen[-6:]]) < 0.5 * np.mean([p.loss for p in seen[:3]])
    images, labels = stripes(99, 60)
    assert (network.eval()(images).argmax(1) == labels).float().mean() > 0.95, "on images that were not trained on"


def sandwich_step(supernet: nn.Module, seen: list[Architecture] | None = None):  # type: ignore[no-untyped-def]
    def resize(images: Tensor, architecture: Architecture) -> Tensor:
        if seen is not None:
            seen.append(architecture)
        side = SPACE.resolution(architecture)
        return nn.functional.interpolate(images, (side, side))

    return supernet_step(
        supernet,
        Sandwich(SPACE),
        task=TASK,
        num_random=2,
        rng=np.random.default_rng(0),
        dtype=None,
        resize=resize,
        device="cpu",
    )


def test_the_loss_of_a_supernet_falls_for_its_members_too() -> None:
    torch.manual_seed(0)
    supernet, seen = Supernet(SPACE), []
    settings = replace(SETTINGS, peak_learning_rate=1.0)
    step = sandwich_step(supernet)
    train_steps(supernet, 40, batches=three_batches, seen=seen, step=step, settings=settings)
    assert np.mean([p.loss for p in seen[-6:]]) < 0.7 * np.mean([p.loss for p in seen[:3]])
    images, labels = stripes(99, 60)
    small = nn.functional.interpolate(images, (6, 6))
    assert SPACE.resolution(SPACE.smallest()) == 6
    with torch.no_grad():
        for architecture, resized in ((SPACE.smallest(), small), (SPACE.largest(), images)):
            predicted = supernet(resized, architecture).argmax(1)  # batch statistics
            assert (predicted == labels).float().mean() > 0.8


def test_a_sandwich_holds_the_ends_with_any_kind_and_samples_between() -> None:
    supernet, seen = Supernet(SPACE), []
    step = sandwich_step(supernet, seen)
    for _ in range(10):
        step(*stripes(0))
    assert len(seen) == 10 * 4
    largest, smallest = seen[::4], seen[3::4]
    for ends, expected in ((largest, (8, 2, 64)), (smallest, (6, 1, 48))):
        for found in ends:
            assert (found["resolution"], found["stage0.depth"], found["stage2.width"]) == expected
    for ends in (largest, smallest):
        assert {architecture["stage0.kind"] for architecture in ends} == set(KINDS)
    assert len({a["resolution"] for a in seen[1::4] + seen[2::4]}) == 2


def test_a_sandwich_leaves_gradients_of_all_its_members() -> None:
    supernet, seen = Supernet(SPACE), []
    sandwich_step(supernet, seen)(*stripes(0))
    used = {place + "." + SPACE.weights_kind(layer) for a in seen for place, layer in SPACE.placed_layers(a)}
    moved = {n.split(".")[1] + "." + n.split(".")[2] for n, p in supernet.named_parameters() if p.grad is not None}
    assert moved == used


@pytest.mark.parametrize("budget_sec", [0.0, 0.4])
def test_training_ends_with_the_clock(budget_sec: float) -> None:
    network, checkpoints, seen = small_network(), [], []
    state = train(
        network,
        network_step(network, task=TASK, dtype=None, device="cpu"),
        same_batch,  # an epoch without end: the clock is looked at in every step
        budget_sec=budget_sec,
        settings=SETTINGS,
        state=TrainState(),
        images_per_epoch=36,
        on_progress=seen.append,
        on_checkpoint=lambda current: checkpoints.append(current.steps),
    )
    assert state.seconds >= budget_sec
    assert seen[-1].seconds == state.seconds
    assert all(progress.seconds < budget_sec for progress in seen[:-1])
    assert state.steps == len(seen) >= 1 and state.images == 12 * state.steps
    assert checkpoints == [state.steps], "one at the end"
    assert seen[-1].epochs == pytest.approx(state.images / 36)
    assert seen[-1].images_per_sec > 0


def test_training_that_has_used_its_time_does_nothing_more() -> None:
    network = small_network()
    before = copy.deepcopy(network.state_dict())
    done = TrainState(seconds=5.0, images=120, steps=10)
    state = train(
        network,
        network_step(network, task=TASK, dtype=None, device="cpu"),
        same_batch,
        budget_sec=5.0,
        settings=SETTINGS,
        state=done,
        images_per_epoch=36,
    )
    assert (state.seconds, state.images, state.steps) == (5.0, 120, 10)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_time_trained_before_an_interruption_counts() -> None:
    network = small_network()
    state = train(
        network,
        network_step(network, task=TASK, dtype=None, device="cpu"),
        same_batch,
        budget_sec=1000.0,
        settings=SETTINGS,
        state=TrainState(seconds=999.9, images=24, steps=2),
        images_per_epoch=36,
    )
    assert 1000.0 <= state.seconds < 1060.0
    assert state.steps > 2


def test_an_interrupted_training_goes_on_as_if_nothing_had_happened() -> None:
    """Weights, norms' statistics, counters and momentum: any of them lost would show in the weights."""
    whole, parts = small_network(), small_network()
    whole_state = train_steps(whole, 9)
    state = train_steps(parts, 4)
    assert state.steps == 4 and state.images == 48 and state.momentum
    resumed = small_network(seed=1)
    resumed.load_state_dict(parts.state_dict())
    resumed_state = train_steps(resumed, 5, state=state)
    assert (resumed_state.steps, resumed_state.images) == (whole_state.steps, whole_state.images) == (9, 108)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, msg=lambda m, n=name: f"{n}: {m}")
    for name, tensor in (whole_state.momentum or {}).items():
        torch.testing.assert_close((resumed_state.momentum or {})[name], tensor)


def test_momentum_matters_for_resuming() -> None:
    """The test above can tell: without momentum the weights differ."""
    whole, parts = small_network(), small_network()
    train_steps(whole, 9)
    state = train_steps(parts, 4)
    train_steps(parts, 5, state=replace(state, momentum=None))
    assert not torch.allclose(parts[0].weight, whole[0].weight, rtol=1e-3)


def test_checkpoints_are_written_now_and_then() -> None:
    network, steps = small_network(), []
    train(
        network,
        network_step(network, task=TASK, dtype=None, device="cpu"),
        same_batch,
        budget_sec=0.5,
        settings=SETTINGS,
        state=TrainState(),
        images_per_epoch=36,
        on_checkpoint=lambda current: steps.append(current.steps),
        checkpoint_every_sec=0.05,
    )
    assert len(steps) >= 3
    assert steps == sorted(steps)


def test_weights_decay_and_norms_and_biases_do_not() -> None:
    network = small_network()
    settings = replace(SETTINGS, weight_decay=100.0, peak_learning_rate=1e-3, momentum=0.5)

    def step(images: Tensor, labels: Tensor) -> Tensor:
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        return torch.zeros(())

    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    train_steps(network, 3, step=step, settings=settings)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            assert parameter.norm() < 0.99 * before[name].norm(), name
        else:
            assert torch.equal(parameter, before[name]), name


def test_images_grow_to_their_size_during_a_training() -> None:
    sides: list[int] = []

    def step(images: Tensor, labels: Tensor) -> Tensor:
        sides.append(images.shape[-1])
        return images.sum()

    for share in (0.0, 0.49, 0.5, 1.0):
        grown = with_growing_images(step, lambda share=share: share, 0.5)  # type: ignore[misc]
        grown(torch.randn(2, 3, 32, 32), torch.arange(2))
    assert sides == [24, 24, 32, 32]
    with_growing_images(step, lambda: 0.0, 0.0)(torch.randn(2, 3, 32, 32), torch.arange(2))
    with_growing_images(step, lambda: 0.0, 0.5)(torch.randn(2, 3, 8, 8), torch.arange(2))
    assert sides[4:] == [32, 8], "not at all, and never digits"


def test_one_cycle_rises_to_its_peak_and_falls_to_zero() -> None:
    assert one_cycle(0.0, 0.2) == pytest.approx(0.1)
    assert one_cycle(0.1, 0.2) == pytest.approx(0.55)
    assert one_cycle(0.2, 0.2) == pytest.approx(1.0)
    assert one_cycle(0.6, 0.2) == pytest.approx(0.5)
    assert one_cycle(1.0, 0.2) == pytest.approx(0.0, abs=1e-12)
    factors = [one_cycle(share, 0.15) for share in np.linspace(0, 1, 101)]
    top = int(np.argmax(factors))
    assert top == 15 and max(factors) == pytest.approx(1.0)
    assert np.all(np.diff(factors[: top + 1]) > 0) and np.all(np.diff(factors[top:]) < 0)


def test_no_warm_up_starts_at_the_peak() -> None:
    assert one_cycle(0.0, 0.0) == pytest.approx(1.0)


def test_the_fastest_setup_is_one_that_was_timed_and_is_put_into_force() -> None:
    asked: list[torch.dtype | None] = []

    def make_step(dtype: torch.dtype | None) -> Callable[[Tensor, Tensor], Tensor]:
        asked.append(dtype)
        return lambda images, labels: images.sum()

    before = torch.get_num_threads()
    try:
        setup = fastest_setup(small_network(), make_step, *stripes(0))
        assert isinstance(setup, ComputeSetup)
        assert setup.dtype in asked and None in asked
        assert torch.get_num_threads() == setup.num_threads <= max_threads()
    finally:
        torch.set_num_threads(before)


def test_looking_for_the_fastest_setup_leaves_the_network_as_it_was() -> None:
    network = small_network()
    before = copy.deepcopy(network.state_dict())
    threads = torch.get_num_threads()
    try:
        fastest_setup(network, lambda dtype: network_step(network, task=TASK, dtype=dtype, device="cpu"), *stripes(0))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
