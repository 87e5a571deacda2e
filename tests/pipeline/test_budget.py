from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwautoml.pipeline.budget import Plan, default_budget_sec, make_plan, profile_cap_sec

budgets = st.floats(30.0, 7200.0)
LOADING_SEC = 2.0


@given(budgets, st.booleans(), st.floats(0.0, 1.0))
def test_a_plan_adds_up_to_at_most_the_total(total: float, has_tvm: bool, profiled: float) -> None:
    """``profiled``: the share of the profiling cap that was used, none when a table was there."""
    elapsed = LOADING_SEC + profiled * profile_cap_sec(total)
    plan = make_plan(total, elapsed, has_tvm)
    specialise = total - elapsed - plan.train - plan.search - plan.ship
    assert elapsed + plan.train + plan.search + plan.ship <= total + 0.15 * total * (total < 60)
    assert min(plan.train, plan.search, plan.ship) > 0
    if total >= 60:
        assert specialise >= 0.2 * (plan.train + plan.search), "the winner needs time of its own"


@given(budgets, st.booleans())
def test_tuning_is_part_of_shipping_and_only_for_tvm(total: float, has_tvm: bool) -> None:
    plan = make_plan(total, LOADING_SEC, has_tvm)
    assert (plan.tune > 0) == has_tvm
    assert plan.tune < plan.ship <= 0.6 * total


@given(budgets, budgets, st.booleans())
def test_more_time_never_means_fewer_finalists_or_evaluations(first: float, second: float, has_tvm: bool) -> None:
    less, more = (make_plan(total, LOADING_SEC, has_tvm) for total in sorted((first, second)))
    assert less.num_finalists <= more.num_finalists
    assert less.max_evaluations <= more.max_evaluations
    assert less.ship <= more.ship
    assert {less.num_finalists, more.num_finalists} <= {1, 2, 3}


def test_a_plan_without_time_left_still_trains_a_little() -> None:
    plan = make_plan(60.0, 500.0, True)
    assert 0 < plan.train < 9.0


def test_a_plan_survives_json() -> None:
    plan = make_plan(600.0, 5.0, True)
    assert Plan(**json.loads(json.dumps(plan.to_json()))) == plan


def test_default_budgets_grow_with_the_data_up_to_two_hours() -> None:
    assert default_budget_sec(1_200, 8) < 120.0, "the built-in digits"
    assert default_budget_sec(45_000, 32) == pytest.approx(95 + 0.035 * 45_000)
    assert default_budget_sec(1_000_000, 224) == 7200.0


def test_profiling_takes_a_small_part_with_bounds() -> None:
    assert profile_cap_sec(30.0) == 10.0
    assert profile_cap_sec(1000.0) == pytest.approx(120.0)
    assert profile_cap_sec(7200.0) == 240.0
