from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from hwautoml.core.task import Answer, Figure, Matrix, Metric, outcome_from_bytes, outcome_to_bytes
from hwautoml.errors import InvalidValueError
from hwautoml.tasks.classification import Classification

TASK = Classification(("a", "b"))
TYPES = st.sampled_from([np.int64, np.int32, np.float64, np.float16, np.bool_])


@given(TYPES.flatmap(lambda kind: arrays(kind, array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))))
def test_any_array_survives_bytes(outcome: np.ndarray) -> None:
    found = outcome_from_bytes(outcome_to_bytes(outcome))
    assert found.dtype == outcome.dtype and found.shape == outcome.shape
    assert np.array_equal(found, outcome, equal_nan=outcome.dtype.kind == "f")


@pytest.mark.parametrize("data", [b"", b"hello", outcome_to_bytes(np.arange(9))[:-8]])
def test_bytes_that_are_no_outcome_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        outcome_from_bytes(data)


def test_nothing_that_runs_code_is_read() -> None:
    """An outcome comes from a file."""
    with pytest.raises(ValueError, match="Object arrays cannot be"):
        outcome_to_bytes(np.array([{}], dtype=object))


def test_what_is_best_follows_the_direction() -> None:
    assert (Metric("recall").best, Metric("error", "mm", "minimize", 0.0, 9.0).best) == (1.0, 0.0)
    assert Metric("worst_recall").label == "worst recall"


def test_an_answer_of_another_kind_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="ranking, above, values, got 'boxes'"):
        Answer("boxes")  # type: ignore[arg-type] # what a package in plain Python may pass


def test_a_figure_survives_json() -> None:
    figure = Figure("x", "Title", "Lead.", Matrix(("a", "b"), ((1, 2), (3, 4))), ("h",), (("r",),), "List", ("i",))
    assert Figure.from_json(json.loads(json.dumps(figure.to_json()))) == figure


def test_a_matrix_that_does_not_fit_its_names_is_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"of 2 names must be 2 x 2, got 2 rows of \[2, 3\]"):
        Matrix(("a", "b"), ((1, 2), (3, 4, 5)))


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_outcomes_of_any_parts_add_up(number: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    outputs, labels = rng.random((30, 2)), rng.integers(0, 2, 30)
    cuts = np.sort(rng.integers(0, 30, number))
    pairs = zip(np.split(outputs, cuts), np.split(labels, cuts), strict=True)
    merged = TASK.merge([TASK.outcome(o, y) for o, y in pairs])
    assert np.array_equal(merged, TASK.outcome(outputs, labels)) and merged.sum() == 30
