import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hwautoml.core.pareto import crowding_distance, hypervolume_2d, non_dominated, non_dominated_rank

# Few distinct numbers, so that ties and duplicates are common.
tied = st.integers(min_value=0, max_value=5).map(float)
shapes = st.tuples(st.integers(1, 25), st.integers(1, 4))
points = shapes.flatmap(lambda shape: arrays(np.float64, shape, elements=tied))
points_2d = st.integers(1, 25).flatmap(lambda n: arrays(np.float64, (n, 2), elements=tied))


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())


@given(points)
def test_front_equals_brute_force(values: np.ndarray) -> None:
    expected = [not any(dominates(other, row) for other in values) for row in values]
    assert non_dominated(values).tolist() == expected


@given(points)
def test_a_rank_is_the_longest_chain_of_dominating_points(values: np.ndarray) -> None:
    ranks = non_dominated_rank(values)
    for rank, row in zip(ranks, values, strict=True):
        above = [other for other, point in zip(ranks, values, strict=True) if dominates(point, row)]
        assert rank == (max(above) + 1 if above else 0)


def test_nan_is_never_on_the_front_and_ranks_last() -> None:
    values = np.array([[np.nan, 0.0], [1.0, 1.0], [2.0, 2.0]])
    assert non_dominated(values).tolist() == [False, True, False]
    assert non_dominated_rank(values).tolist() == [2, 0, 1]


def test_no_points() -> None:
    assert non_dominated(np.empty((0, 2))).tolist() == []
    assert hypervolume_2d(np.empty((0, 2)), (1.0, 1.0)) == 0.0


@given(points_2d)
def test_hypervolume_equals_the_count_of_unit_cells(values: np.ndarray) -> None:
    """On integer points the dominated area is the number of dominated unit squares."""
    corners = np.stack(np.meshgrid(np.arange(6), np.arange(6)), axis=-1).reshape(-1, 2)
    dominated = (values[None] <= corners[:, None]).all(axis=2).any(axis=1)
    assert hypervolume_2d(values, (6.0, 6.0)) == pytest.approx(float(dominated.sum()))


def test_hypervolume_equals_pymoo() -> None:
    hv = pytest.importorskip("pymoo.indicators.hv")
    values = np.random.default_rng(0).random((200, 2)) * 1.2
    expected = hv.HV(ref_point=np.array([1.0, 1.0]))(values)
    assert hypervolume_2d(values, (1.0, 1.0)) == pytest.approx(expected)


@given(points_2d, st.tuples(tied, tied))
def test_another_point_never_shrinks_the_hypervolume(values: np.ndarray, point: tuple[float, float]) -> None:
    more = np.vstack([values, point])
    assert hypervolume_2d(more, (5.5, 5.5)) >= hypervolume_2d(values, (5.5, 5.5))


def test_crowding_distance_is_infinite_at_the_ends_and_grows_with_loneliness() -> None:
    values = np.array([[0.0, 10.0], [1.0, 9.0], [2.0, 8.0], [9.0, 1.0], [10.0, 0.0]])
    distance = crowding_distance(values)
    assert np.isinf(distance[[0, -1]]).all()
    assert distance[1] < distance[2] == pytest.approx(distance[3], abs=0.2)
