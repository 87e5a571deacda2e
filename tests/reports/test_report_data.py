import math

import pytest

from hwautoml.errors import InvalidValueError
from hwautoml.reports.report_data import ReportData


def test_everything_is_read(data) -> None:
    report = ReportData.from_dict(data)
    assert report.dataset.classes[2] == "<script>alert('x')</script>"
    assert report.winner is not None and report.winner.blocks[1].layer.kind == "mbconv_se"
    assert report.winner.latency.interval_ms == pytest.approx((0.98 * 0.306, 1.03 * 0.306))
    assert report.specialised[0].fastest is not None and report.specialised[0].fastest[0] == "tvm"
    assert report.candidates[4].chosen
    (matrix, table) = report.figures
    assert matrix.matrix is not None and matrix.matrix.counts == ((11, 1, 0), (0, 12, 0), (2, 0, 10))
    assert table.matrix is None and table.rows[0] == ("cat", "91 %")
    assert [figure.to_json() for figure in map(type(matrix).from_json, data["figures"])] == [
        f.to_json() for f in report.figures
    ]


def test_a_run_that_has_only_begun_is_enough() -> None:
    dataset = {"name": "d", "classes": []}
    report = ReportData.from_dict({"title": "t", "target": "cpu", "space": "s", "dataset": dataset})
    assert report.candidates == () and report.winner is None and report.figures == ()


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_what_is_no_finite_number_is_missing(data, value) -> None:
    data["candidates"][0]["accuracy_val"] = value
    data["seconds"]["train"] = value
    data["limit_ms"] = value
    report = ReportData.from_dict(data)
    assert report.candidates[0].accuracy_val is None and report.limit_ms is None and "train" not in report.seconds


def wrong(data, path, value):
    *parents, last = path
    for step in parents:
        data = data[step]
    if value is KeyError:
        del data[last]
    else:
        data[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["targett"], "cpu", r"report has unknown fields \['targett'\]; known: title"),
        (["title"], KeyError, r"report lacks \['title'\]"),
        (["candidates", 1, "origin"], "guessed", r"candidates\[1\].origin must be one of"),
        (["candidates", 1, "on_frnt"], True, r"candidates\[1\] has unknown fields"),
        (["candidates", 1, "latency_ms"], "fast", "needs a number or nothing here, got 'fast'"),
        (["specialised", 0, "measured", "tvm", "interval_ms"], [1.0], r"\[0\].measured.tvm.interval_ms must be"),
        (["winner", "latency", "median_ms"], math.nan, "winner.latency needs a finite median_ms"),
        (["winner", "layers", 0, "key"], "stem", "is no layer key"),
        (["figures", 0, "matrix", "counts"], [[1, 2]], "a matrix of 3 names must be 3 x 3"),
        (["figures", 0, "lead"], KeyError, r"figures\[0\] is no figure of a task: KeyError"),
        (["dataset"], {"classes": []}, r"dataset lacks \['name'\]"),
    ],
)
def test_what_is_wrong_is_named(data, path, value, message) -> None:
    wrong(data, path, value)
    with pytest.raises(InvalidValueError, match=message):
        ReportData.from_dict(data)
