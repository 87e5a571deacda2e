from __future__ import annotations

import numpy as np
import pytest

from hwautoml.core.parity import ParityReport, check_parity, require_parity
from hwautoml.errors import InvalidValueError, ParityError
from hwautoml.tasks.classification import Classification

TASK = Classification(("a", "b", "c"))
REFERENCE = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]])


def test_figures() -> None:
    report = check_parity(REFERENCE, REFERENCE + np.array([[0, 0, 0.01], [0, -0.02, 0]]), task=TASK, tolerance=0.1)
    assert report.max_abs == pytest.approx(0.02)
    assert (report.agreement, report.num_images) == (1.0, 2)
    require_parity(report, artifact="model.onnx")


def test_too_far() -> None:
    report = check_parity(REFERENCE, REFERENCE + 0.05, task=TASK, tolerance=0.01)
    with pytest.raises(ParityError, match=r"model\.onnx does not compute.* 2 images.*up to 0\.05 \(tolerance 0\.01\)"):
        require_parity(report, artifact="model.onnx")


def test_other_classes() -> None:
    report = check_parity(REFERENCE, REFERENCE[:, ::-1], task=TASK, tolerance=1)
    assert report.agreement == 0.5
    with pytest.raises(ParityError, match=r"the class is the same on 50\.00% of them \(at least 99\.00% must be\)"):
        require_parity(report, artifact="a")
    require_parity(report, artifact="a", min_agreement=0.5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite_is_never_parity(value: float) -> None:
    other = REFERENCE.copy()
    other[0, 0] = value
    for pair in ((REFERENCE, other), (other, REFERENCE), (other, other)):
        with pytest.raises(ParityError, match="up to inf"):
            require_parity(check_parity(*pair, task=TASK, tolerance=1e9), artifact="a")


def test_at_the_tolerance_is_within() -> None:
    assert ParityReport(0.01, 1.0, 1, 0.01).is_within_tolerance


def test_bad_input() -> None:
    with pytest.raises(ParityError, match=r"shape \(2, 2\), the network \(2, 3\)"):
        check_parity(REFERENCE, REFERENCE[:, :2], task=TASK, tolerance=1)
    with pytest.raises(InvalidValueError, match="tolerance"):
        check_parity(REFERENCE, REFERENCE, task=TASK, tolerance=0)
    with pytest.raises(InvalidValueError, match=r"\(0, 3\)"):
        check_parity(REFERENCE[:0], REFERENCE[:0], task=TASK, tolerance=1)
