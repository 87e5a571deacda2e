from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from hwautoml.core.plan import images_to_learn, make_plan
from hwautoml.datasets import ImageDataset
from hwautoml.pipeline.runs.job import Job
from hwautoml.pipeline.runs.utilisation import (
    LOWEST_UTILISATION,
    REACH,
    WINNER_SHARE,
    afford,
    batch_size,
    is_within_reach,
    lowest_utilisation,
    sandwich_of,
    sec_per_image,
    supernet_epochs_per_sec,
    time_training,
    utilisation,
)
from hwautoml.spaces.mobile import MobileSpace
from hwautoml.supernets.training_cost import TrainingCost

COST = TrainingCost(1e-10, 1e-9, 1e-6, 0.1)


@pytest.fixture
def timed(make_job: Callable[..., Job], digits: ImageDataset) -> Job:
    """A job that knows what training costs, without a plan."""
    job = make_job()
    job.dataset, job.training_cost = digits, COST
    return job


def test_small_sets_get_small_batches() -> None:
    assert [batch_size(n) for n in (100, 1999, 2000, 9999, 10_000, 50_000)] == [32, 32, 64, 64, 128, 128]


def test_members_beyond_reach_are_told_from_those_within(make_job: Callable[..., Job], space: MobileSpace) -> None:
    job = make_job()
    largest = job.table.predict(space.layers(space.largest())).mean_ms
    job.settings = replace(job.settings, latency_ms=1.001 * largest / REACH)
    assert is_within_reach(job, space.largest())
    job.settings = replace(job.settings, latency_ms=0.999 * largest / REACH)
    assert not is_within_reach(job, space.largest()) and is_within_reach(job, space.smallest())


def test_before_there_is_a_plan_only_the_latency_counts(timed: Job, space: MobileSpace) -> None:
    members = [space.smallest(), space.largest()]
    expected = [timed.table.predict(space.layers(a)).mean_ms / timed.settings.latency_ms for a in members]
    assert utilisation(timed, members) == pytest.approx(expected)


def test_what_is_scarcer_counts(timed: Job, space: MobileSpace) -> None:
    """The latency limit for one member, the training time for another."""
    members = [space.sample(np.random.default_rng(seed)) for seed in range(8)]
    latency = utilisation(timed, members)
    seconds = np.array([sec_per_image(timed, a) for a in members])
    timed.affordable_sec_per_image = float(np.median(seconds / latency))
    used = utilisation(timed, members)
    assert used == pytest.approx(np.maximum(latency, seconds / timed.affordable_sec_per_image))
    assert (used > latency * 1.001).any() and (used < latency * 1.001).any()


def test_the_winner_affords_what_lets_it_see_enough_images(timed: Job, space: MobileSpace) -> None:
    timed.plan = make_plan(95.0, 5.0, False, 1.0)
    afford(timed)
    images = WINNER_SHARE * timed.plan.specialise / timed.affordable_sec_per_image
    assert images == pytest.approx(images_to_learn(timed.dataset.train.num_images))
    timed.affordable_sec_per_image = sec_per_image(timed, space.largest()) / 2.0
    assert not is_within_reach(timed, space.largest()) and is_within_reach(timed, space.smallest())


def test_a_narrower_reach_is_kept_to(timed: Job, space: MobileSpace) -> None:
    rng = np.random.default_rng(0)
    middle = timed.table.predict(space.layers(space.sample(rng))).mean_ms
    timed.settings = replace(timed.settings, latency_ms=middle)
    wide, narrow = ([sandwich_of(timed, reach).random(rng) for _ in range(30)] for reach in (REACH, 0.8))
    assert 0.8 < utilisation(timed, wide).max() <= REACH
    assert utilisation(timed, narrow).max() <= 0.8


def test_no_size_is_left_out_once_scores_can_tell() -> None:
    assert lowest_utilisation(0.0) == LOWEST_UTILISATION > 0
    assert lowest_utilisation(1.0) == 0.0


def test_training_is_timed_once(make_job: Callable[..., Job], digits: ImageDataset, space: MobileSpace) -> None:
    """By real steps; a resumed run takes the figures from the journal."""
    job = make_job()
    job.dataset = digits
    time_training(job, 0.5)
    assert 0 < sec_per_image(job, space.smallest()) < sec_per_image(job, space.largest())
    assert supernet_epochs_per_sec(job) > 0
    resumed = Job(job.store, job.settings, job.target, job.on_progress)
    resumed.dataset, resumed.space, resumed.tables = digits, space, job.tables
    time_training(resumed, 0.5)
    assert resumed.training_cost == job.training_cost


def test_a_sandwich_costs_its_three_members(timed: Job) -> None:
    slower = replace(COST, sec_per_mac=2e-10, sec_per_byte=2e-9, sec_per_kernel=2e-6)
    before = supernet_epochs_per_sec(timed)
    timed.training_cost = slower
    assert supernet_epochs_per_sec(timed) == pytest.approx(before / 2)
