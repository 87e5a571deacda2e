from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwautoml.core.plan import (
    AMPLE_EPOCHS,
    MAX_NEEDED_IMAGES,
    MAX_SUPERNET_SHARE,
    MIN_SUPERNET_SHARE,
    NEEDED_EPOCHS,
    RANKED_EPOCHS,
    Plan,
    default_budget_sec,
    images_to_learn,
    make_plan,
    profile_cap_sec,
    supernet_share,
    trust_in_ranking,
)

budgets = st.floats(30.0, 7200.0)
speeds = st.floats(1e-6, 100.0)  # epochs of the supernet per second
LOADING_SEC = 2.0


@given(budgets, st.booleans(), st.floats(0.0, 1.0), speeds)
def test_a_plan_adds_up_to_at_most_the_total(total: float, has_tvm: bool, profiled: float, speed: float) -> None:
    """``profiled``: the share of the profiling cap that was used, none when a table was there."""
    elapsed = LOADING_SEC + profiled * profile_cap_sec(total)
    plan = make_plan(total, elapsed, has_tvm, speed)
    specialise = total - elapsed - plan.train - plan.search - plan.ship
    assert plan.specialise == pytest.approx(specialise, abs=0.15 * total * (total < 60) + 1e-6)
    assert elapsed + plan.train + plan.search + plan.ship <= total + 0.15 * total * (total < 60)
    assert min(plan.train, plan.search, plan.ship) > 0
    if total >= 60:
        assert specialise >= 0.2 * (plan.train + plan.search), "the winner needs time of its own"


@given(budgets, st.booleans(), speeds)
def test_tuning_is_part_of_shipping_and_only_for_tvm(total: float, has_tvm: bool, speed: float) -> None:
    plan = make_plan(total, LOADING_SEC, has_tvm, speed)
    assert (plan.tune > 0) == has_tvm
    assert plan.tune < plan.ship <= 0.6 * total


@given(budgets, budgets, st.booleans())
def test_more_time_never_means_fewer_finalists_or_evaluations(first: float, second: float, has_tvm: bool) -> None:
    less, more = (make_plan(total, LOADING_SEC, has_tvm, 0.01) for total in sorted((first, second)))
    assert less.num_finalists <= more.num_finalists
    assert less.max_evaluations <= more.max_evaluations
    assert less.ship <= more.ship
    assert {less.num_finalists, more.num_finalists} <= {1, 2, 3}


def test_a_plan_without_time_left_still_trains_a_little() -> None:
    plan = make_plan(60.0, 500.0, True, 1.0)
    assert 0 < plan.train < 9.0


def test_a_plan_survives_json() -> None:
    plan = make_plan(600.0, 5.0, True, 0.01)
    assert Plan(**json.loads(json.dumps(plan.to_json()))) == plan


@given(st.floats(0.0, 1e4), st.floats(0.0, 1e4))
def test_the_supernet_gets_more_the_more_often_it_sees_the_images(first: float, second: float) -> None:
    shares = [supernet_share(epochs) for epochs in sorted((first, second))]
    assert MIN_SUPERNET_SHARE <= shares[0] <= shares[1] <= MAX_SUPERNET_SHARE


def test_a_few_epochs_are_the_winners_and_many_are_shared() -> None:
    """CIFAR-10 for 20 minutes on two cores, and the digits for 95 seconds, or CIFAR-10 on a GPU."""
    scarce, ample = (make_plan(1200.0, 100.0, True, epochs_per_sec) for epochs_per_sec in (0.008, 2.0))
    assert scarce.train < 0.3 * scarce.specialise
    assert ample.train == pytest.approx(1.5 * ample.specialise)
    assert supernet_share(AMPLE_EPOCHS) == MAX_SUPERNET_SHARE


def test_scores_are_trusted_as_the_epochs_grow() -> None:
    assert trust_in_ranking(0.0) == 0.0
    assert trust_in_ranking(RANKED_EPOCHS / 2) == 0.5
    assert trust_in_ranking(10 * RANKED_EPOCHS) == 1.0


def test_small_sets_are_seen_often_and_large_ones_in_part() -> None:
    assert images_to_learn(1_000) == NEEDED_EPOCHS * 1_000
    assert images_to_learn(10_000_000) == MAX_NEEDED_IMAGES


def test_default_budgets_grow_with_the_data_up_to_two_hours() -> None:
    assert default_budget_sec(1_200, 8) < 120.0, "the built-in digits"
    assert default_budget_sec(45_000, 32) == pytest.approx(95 + 0.035 * 45_000)
    assert default_budget_sec(1_000_000, 224) == 7200.0


def test_profiling_takes_a_small_part_with_bounds() -> None:
    assert profile_cap_sec(30.0) == 10.0
    assert profile_cap_sec(1000.0) == pytest.approx(120.0)
    assert profile_cap_sec(7200.0) == 240.0
