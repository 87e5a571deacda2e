from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hwautoml.core.progress import Progress
from hwautoml.datasets import load_dataset
from hwautoml.errors import RunFolderError
from hwautoml.pipeline.runs.context import RunContext
from hwautoml.pipeline.stages.training import checkpoint, restore, training_batches, training_listener
from hwautoml.spaces.mobile import MobileSpace
from hwautoml.supernets import training
from hwautoml.supernets.sandwich import Sandwich
from hwautoml.supernets.supernet import Supernet
from hwautoml.supernets.threads import ThreadTuner
from hwautoml.supernets.training import TrainProgress, TrainSettings, TrainState, supernet_step, train
from hwautoml.tasks.classification import Classification

SETTINGS = TrainSettings(batch_size=8, peak_learning_rate=0.5)


def batches(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    data = torch.Generator().manual_seed(0)
    while True:
        yield torch.randn(8, 1, 8, 8, generator=data), torch.arange(8)


def train_until(run: RunContext, supernet: Supernet, state: TrainState, steps: int, name: str) -> None:
    """Ctrl-C after ``steps`` more steps; every step draws the same members, whatever came before."""

    def stop(progress: TrainProgress) -> None:
        if state.steps == last:
            raise KeyboardInterrupt

    last, space = state.steps + steps, run.space
    step = supernet_step(
        supernet,
        Sandwich(space),
        task=Classification(tuple("0123456789")),
        num_random=1,
        rng=_Same(),  # type: ignore[arg-type]
        dtype=None,
        resize=lambda images, a: images[..., : space.resolution(a), : space.resolution(a)],
        device="cpu",
    )
    with pytest.raises(KeyboardInterrupt):
        train(
            supernet,
            step,
            batches,
            budget_sec=1e7,
            settings=SETTINGS,
            state=state,
            images_per_epoch=8,
            on_progress=stop,
            on_checkpoint=lambda current: checkpoint(run, run.folder / name, supernet, current),
        )


class _Same:
    """A generator that always draws the same."""

    def integers(self, *arguments: object) -> np.ndarray:
        return np.random.default_rng(5).integers(*arguments)  # type: ignore[call-overload]


def new_supernet(space: MobileSpace, seed: int) -> Supernet:
    torch.manual_seed(seed)
    return Supernet(space)


@pytest.fixture
def steady_clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A second for every look at it, and one thread: the learning rate follows the clock, and the number of
    threads decides the order of sums. BatchNorm over eight images makes much of the last digit of either."""
    ticks = itertools.count()
    monkeypatch.setattr(training.time, "monotonic", lambda: float(next(ticks)))
    monkeypatch.setattr(training, "ThreadTuner", lambda: ThreadTuner(counts=(1,)))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_training_goes_on_as_if_never_interrupted(
    make_run: Callable[..., RunContext], space: MobileSpace, steady_clock: None
) -> None:
    run = make_run()
    whole, first, resumed = new_supernet(space, 0), new_supernet(space, 0), new_supernet(space, 1)
    train_until(run, whole, TrainState(), 3, "whole")
    train_until(run, first, TrainState(), 3, "parts")
    state = restore(run.folder / "parts", resumed)
    assert (state.steps, state.images) == (3, 24) and state.momentum and state.seconds > 0
    for name, tensor in first.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    whole_state = restore(run.folder / "whole", new_supernet(space, 2))
    train_until(run, whole, whole_state, 2, "whole")
    train_until(run, resumed, state, 2, "parts")
    assert state.steps == whole_state.steps == 5
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, msg=lambda m, n=name: f"{n}: {m}")


def test_without_a_checkpoint_training_begins_anew(tmp_path: Path, space: MobileSpace) -> None:
    assert restore(tmp_path / "none", new_supernet(space, 0)) == TrainState()


def test_a_checkpoint_notes_the_time_the_run_has_taken(
    make_run: Callable[..., RunContext], space: MobileSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a killed run does not get its time twice."""
    run = make_run()
    monkeypatch.setattr(run.journal, "_since", time.monotonic() - 100.0)
    checkpoint(run, run.folder / "supernet.safetensors", new_supernet(space, 0), TrainState(1.0, 8, 1))
    assert 100.0 <= run.journal.store.setting("elapsed_sec") <= run.journal.elapsed_sec < 110.0


def test_a_damaged_checkpoint_is_an_error_with_a_fix(make_run: Callable[..., RunContext], space: MobileSpace) -> None:
    run, supernet = make_run(), new_supernet(space, 0)
    path = run.folder / "supernet.safetensors"
    checkpoint(run, path, supernet, TrainState(1.0, 8, 1))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RunFolderError, match="supernet.safetensors is damaged"):
        restore(path, supernet)


def test_batches_are_shuffled_whole_and_of_the_wanted_size() -> None:
    dataset = load_dataset("digits")
    epoch = training_batches(dataset, 64, "cpu", resolution=6)
    first, second, other = (list(epoch(torch.Generator().manual_seed(seed))) for seed in (0, 0, 1))
    assert {tuple(images.shape) for images, _ in first} == {(64, 1, 6, 6)}
    assert len(first) == dataset.train.num_images // 64
    assert [labels.tolist() for _, labels in first] == [labels.tolist() for _, labels in second]
    assert [labels.tolist() for _, labels in first] != [labels.tolist() for _, labels in other]


def test_a_set_smaller_than_a_batch_still_gives_one() -> None:
    dataset = load_dataset("digits")
    few = list(training_batches(dataset, 10**6, "cpu")(torch.Generator()))
    assert len(few) == 1 and len(few[0][1]) == dataset.train.num_images


def test_progress_tells_speed_and_time_left(make_run: Callable[..., RunContext]) -> None:
    events: list[Progress] = []
    run = replace(make_run(), on_progress=events.append)
    training_listener(run, "train", 100.0)(TrainProgress(1.0, 37.0, 2.34, 1234.5, 0.5))
    assert events == [Progress("train", 0.999, "1,234 images/s, epoch 2.3, loss 0.500, 1m03s left")]
