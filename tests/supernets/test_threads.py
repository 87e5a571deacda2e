from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from hwautoml.supernets.threads import TRIAL_EVERY_SEC, TRIAL_STEPS, ThreadTuner


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(tuner: ThreadTuner, seconds_by_count: dict[int, float], num_steps: int) -> None:
    for _ in range(num_steps):
        tuner.after_step(seconds_by_count[torch.get_num_threads()])


def test_the_faster_count_is_found_and_kept() -> None:
    torch.set_num_threads(2)
    tuner = ThreadTuner((1, 2))
    run(tuner, {1: 0.5, 2: 1.0}, int(TRIAL_EVERY_SEC) + TRIAL_STEPS + 1)
    assert (tuner.best, torch.get_num_threads()) == (1, 1)


def test_a_slower_count_is_tried_and_left_again() -> None:
    torch.set_num_threads(2)
    tuner = ThreadTuner((1, 2))
    run(tuner, {1: 2.0, 2: 1.0}, int(TRIAL_EVERY_SEC) + TRIAL_STEPS + 1)
    assert (tuner.best, torch.get_num_threads()) == (2, 2)


def test_a_machine_that_calms_down_gets_its_threads_back() -> None:
    torch.set_num_threads(2)
    tuner = ThreadTuner((1, 2))
    run(tuner, {1: 1.0, 2: 4.0}, 80)
    assert tuner.best == 1
    run(tuner, {1: 1.0, 2: 0.6}, 80)
    assert tuner.best == 2


def test_nothing_is_tried_before_its_time() -> None:
    torch.set_num_threads(2)
    tuner = ThreadTuner((1, 2))
    run(tuner, {1: 0.1, 2: 1.0}, int(TRIAL_EVERY_SEC) - 1)
    assert torch.get_num_threads() == 2
