from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hwautoml.core.layer import LayerCost
from hwautoml.core.training_cost import fit_training_cost
from hwautoml.spaces.mobile import MobileSpace
from hwautoml.supernets.training_cost import MIN_MEMBERS, measure_training_cost
from hwautoml.tasks.classification import Classification

SPACE = MobileSpace(8, 1, 3)
TASK = Classification(tuple("abc"))


def costs(number: int, seed: int) -> list[LayerCost]:
    rng = np.random.default_rng(seed)
    space = MobileSpace(32, 3, 10)
    return [space.total_cost(space.sample(rng)) for _ in range(number)]


coefficients = st.floats(1e-12, 1e-8)


@given(coefficients, coefficients, st.floats(1e-7, 1e-3), st.integers(0, 100))
def test_a_straight_line_is_found(per_mac: float, per_byte: float, per_kernel: float, seed: int) -> None:
    known, batch = costs(12, seed), 32
    seconds = np.array(
        [
            per_mac * c.macs + per_byte * (c.bytes_moved - 4 * c.parameters) + per_kernel * c.num_kernels / batch
            for c in known
        ]
    )
    found = fit_training_cost(known, seconds, batch)
    assert found.relative_error < 1e-4
    assert [found.sec_per_image(c, batch) for c in known] == pytest.approx(list(seconds), rel=1e-3)


@given(st.lists(st.floats(1e-6, 1.0), min_size=6, max_size=6), st.integers(0, 100))
def test_no_part_of_a_network_trains_in_less_than_no_time(seconds: list[float], seed: int) -> None:
    found = fit_training_cost(costs(6, seed), np.array(seconds), 32)
    assert min(found.sec_per_mac, found.sec_per_byte, found.sec_per_kernel) >= 0
    assert max(found.sec_per_mac, found.sec_per_byte, found.sec_per_kernel) > 0


def test_launching_kernels_is_shared_by_a_batch() -> None:
    (cost,) = costs(1, 0)
    found = fit_training_cost(costs(6, 1), np.array([c.num_kernels * 1e-5 for c in costs(6, 1)]), 1)
    assert found.sec_per_image(cost, 1) > 2 * found.sec_per_image(cost, 64)


def test_real_steps_are_timed_and_larger_members_cost_more() -> None:
    rng = np.random.default_rng(0)
    members = [SPACE.smallest(), SPACE.largest(), *(SPACE.sample(rng) for _ in range(6))]
    timed = []

    def counted():  # type: ignore[no-untyped-def]
        for member in members:
            timed.append(member)
            yield member

    threads = torch.get_num_threads()
    try:
        images, labels = torch.randn(32, 1, 8, 8), torch.arange(32) % 3
        found = measure_training_cost(SPACE, counted(), images, labels, task=TASK, budget_sec=0.0)
    finally:
        torch.set_num_threads(threads)
    assert len(timed) == MIN_MEMBERS + 1, "the time was over from the start; one more was asked for"
    small, large = (found.sec_per_image(SPACE.total_cost(a), 32) for a in (SPACE.smallest(), SPACE.largest()))
    assert 0 < small < large
