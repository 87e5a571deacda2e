import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hwautoml.core.pareto import crowding_distance, hypervolume, non_dominated, non_dominated_rank

# Few distinct numbers, so that ties and duplicates are common.
tied = st.integers(min_value=0, max_value=5).map(float)
shapes = st.tuples(st.integers(1, 25), st.integers(1, 4))
points = shapes.flatmap(lambda shape: arrays(np.float64, shape, elements=tied))


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
    assert hypervolume(np.empty((0, 2)), (1.0, 1.0)) == 0.0


@given(points)
def test_hypervolume_equals_the_count_of_unit_cells(values: np.ndarray) -> None:
    """On integer points the dominated volume is the number of dominated unit cubes."""
    num_objectives = values.shape[1]
    corners = np.stack(np.meshgrid(*[np.arange(6)] * num_objectives), axis=-1).reshape(-1, num_objectives)
    dominated = (values[None] <= corners[:, None]).all(axis=2).any(axis=1)
    assert hypervolume(values, [6.0] * num_objectives) == pytest.approx(float(dominated.sum()))


@pytest.mark.parametrize(("number", "num_objectives"), [(50, 1), (200, 2), (100, 3), (30, 4)])
def test_hypervolume_equals_pymoo(number: int, num_objectives: int) -> None:
    hv = pytest.importorskip("pymoo.indicators.hv")
    values = np.random.default_rng(0).random((number, num_objectives)) * 1.2
    expected = hv.HV(ref_point=np.ones(num_objectives))(values)
    assert hypervolume(values, np.ones(num_objectives)) == pytest.approx(expected)


@given(points, st.lists(tied, min_size=4, max_size=4))
def test_another_point_never_shrinks_the_hypervolume(values: np.ndarray, point: list[float]) -> None:
    reference = [5.5] * values.shape[1]
    more = np.vstack([values, point[: values.shape[1]]])
    assert hypervolume(more, reference) >= hypervolume(values, reference) - 1e-9


def test_rows_with_nan_have_no_volume() -> None:
    assert hypervolume(np.array([[np.nan, 0.0], [0.5, 0.5]]), (1.0, 1.0)) == 0.25


def test_crowding_distance_is_infinite_at_the_ends_and_grows_with_loneliness() -> None:
    values = np.array([[0.0, 10.0], [1.0, 9.0], [2.0, 8.0], [9.0, 1.0], [10.0, 0.0]])
    distance = crowding_distance(values)
    assert np.isinf(distance[[0, -1]]).all()
    assert distance[1] < distance[2] == pytest.approx(distance[3], abs=0.2)
