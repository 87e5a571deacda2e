from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import balanced_accuracy_score

from hwautoml.core.metrics import accuracy, balanced_accuracy, recalls, wilson_interval, worst_recall

matrices = st.integers(2, 5).flatmap(lambda n: arrays(np.int64, (n, n), elements=st.integers(0, 30)))


@pytest.mark.parametrize(
    ("right", "number", "low", "high"),
    [(33, 36, 0.7817, 0.9713), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (1, 2, 0.0945, 0.9055)],
)
def test_published_intervals(right: int, number: int, low: float, high: float) -> None:
    assert wilson_interval(right, number) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(0, 500), st.integers(0, 500))
def test_an_interval_holds_the_share_and_shrinks_with_more_trials(right: int, wrong: int) -> None:
    low, high = wilson_interval(right, right + wrong)
    assert 0 <= low <= high <= 1
    if right + wrong:
        share = right / (right + wrong)
        assert low <= share <= high
        wider = wilson_interval(4 * right, 4 * (right + wrong))
        assert wider[1] - wider[0] < high - low
        mirrored = wilson_interval(wrong, right + wrong)
        assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-12)
    # Its ends solve (share - p)^2 = z^2 p (1 - p) / n, which is what Wilson's interval is.
    for end in (low, high):
        if 0 < end < 1:
            deviation = (right / (right + wrong) - end) ** 2
            assert deviation == pytest.approx(1.959964**2 * end * (1 - end) / (right + wrong), rel=1e-4)


@given(matrices)
def test_figures_agree_with_scikit_learn(confusion: np.ndarray) -> None:
    true, predicted = (np.repeat(axis.ravel(), confusion.ravel()) for axis in np.indices(confusion.shape))
    if not len(true):
        assert math.isnan(balanced_accuracy(confusion)) and worst_recall(confusion) is None
        assert accuracy(confusion) == 0
        return
    assert accuracy(confusion) == pytest.approx((true == predicted).mean())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes that are predicted, and of which there are none
        assert balanced_accuracy(confusion) == pytest.approx(balanced_accuracy_score(true, predicted))
    worst = worst_recall(confusion)
    assert worst is not None and worst[1] == np.nanmin(recalls(confusion)) == recalls(confusion)[worst[0]]


def test_a_model_that_never_names_the_rare_class() -> None:
    confusion = np.array([[55, 0], [5, 0]])
    assert accuracy(confusion) == pytest.approx(0.9167, abs=1e-4)
    assert balanced_accuracy(confusion) == 0.5
    assert worst_recall(confusion) == (1, 0.0)
