from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from hwautoml.core.plan import images_to_learn, make_plan
from hwautoml.core.training_cost import TrainingCost
from hwautoml.pipeline.runs.context import RunContext
from hwautoml.pipeline.runs.resources import (
    LOWEST_UTILISATION,
    REACH,
    WINNER_SHARE,
    Resources,
    batch_size,
    lowest_utilisation,
    resources_of,
    time_training,
)
from hwautoml.spaces.mobile import MobileSpace

COST = TrainingCost(1e-10, 1e-9, 1e-6, 0.1)


def latency_ms(resources: Resources, architecture: object) -> float:
    (table,) = resources.tables.values()
    return table.predict(resources.space.layers(architecture)).mean_ms  # type: ignore[arg-type] # an architecture


@pytest.fixture
def timed(resources: Resources) -> Resources:
    """That know what training costs, without a plan."""
    return replace(resources, training_cost=COST)


def test_small_sets_get_small_batches() -> None:
    assert [batch_size(n) for n in (100, 1999, 2000, 9999, 10_000, 50_000)] == [32, 32, 64, 64, 128, 128]


def test_members_beyond_reach_are_told_from_those_within(resources: Resources, space: MobileSpace) -> None:
    largest = latency_ms(resources, space.largest())
    wide, narrow = (replace(resources, limit_ms=share * largest / REACH) for share in (1.001, 0.999))
    assert wide.is_within_reach(space.largest())
    assert not narrow.is_within_reach(space.largest()) and narrow.is_within_reach(space.smallest())


def test_before_there_is_a_plan_only_the_latency_counts(timed: Resources, space: MobileSpace) -> None:
    members = [space.smallest(), space.largest()]
    expected = [latency_ms(timed, a) / timed.limit_ms for a in members]
    assert timed.utilisation(members) == pytest.approx(expected)


def test_what_is_scarcer_counts(timed: Resources, space: MobileSpace) -> None:
    """The latency limit for one member, the training time for another."""
    members = [space.sample(np.random.default_rng(seed)) for seed in range(8)]
    latency = timed.utilisation(members)
    seconds = np.array([timed.sec_per_image(a) for a in members])
    scarce = replace(timed, affordable_sec_per_image=float(np.median(seconds / latency)))
    used = scarce.utilisation(members)
    assert used == pytest.approx(np.maximum(latency, seconds / scarce.affordable_sec_per_image))
    assert (used > latency * 1.001).any() and (used < latency * 1.001).any()


def test_the_winner_affords_what_lets_it_see_enough_images(timed: Resources, space: MobileSpace) -> None:
    plan = make_plan(95.0, 5.0, False, 1.0)
    images = WINNER_SHARE * plan.specialise / timed.afford(plan).affordable_sec_per_image
    assert images == pytest.approx(images_to_learn(timed.num_images))
    scarce = replace(timed, affordable_sec_per_image=timed.sec_per_image(space.largest()) / 2.0)
    assert not scarce.is_within_reach(space.largest()) and scarce.is_within_reach(space.smallest())


def test_a_narrower_reach_is_kept_to(timed: Resources, space: MobileSpace) -> None:
    rng = np.random.default_rng(0)
    middling = replace(timed, limit_ms=latency_ms(timed, space.sample(rng)))
    wide, narrow = ([middling.sandwich(reach).random(rng) for _ in range(30)] for reach in (REACH, 0.8))
    assert 0.8 < middling.utilisation(wide).max() <= REACH
    assert middling.utilisation(narrow).max() <= 0.8


def test_no_size_is_left_out_once_scores_can_tell() -> None:
    assert lowest_utilisation(0.0) == LOWEST_UTILISATION > 0
    assert lowest_utilisation(1.0) == 0.0


def test_training_is_timed_once(make_run: Callable[..., RunContext], resources: Resources, space: MobileSpace) -> None:
    """By real steps; a resumed run takes the figures from the journal, and the plan's time with them."""
    run = make_run()
    cost = time_training(run, resources, 0.5)
    found = resources_of(run, resources.tables)
    assert found == replace(resources, training_cost=cost)
    assert 0 < found.sec_per_image(space.smallest()) < found.sec_per_image(space.largest())
    assert found.supernet_epochs_per_sec(0) > 0
    assert time_training(run, resources, 0.5) == cost
    run.journal.set_plan(make_plan(95.0, 5.0, False, 1.0))
    assert resources_of(run, resources.tables) == found.afford(make_plan(95.0, 5.0, False, 1.0))


def test_a_sandwich_costs_its_three_members(timed: Resources) -> None:
    slower = replace(COST, sec_per_mac=2e-10, sec_per_byte=2e-9, sec_per_kernel=2e-6)
    before = timed.supernet_epochs_per_sec(0)
    assert replace(timed, training_cost=slower).supernet_epochs_per_sec(0) == pytest.approx(before / 2)
