from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwautoml.errors import InvalidValueError, RegressionError, RunFolderError
from hwautoml.pipeline.verbs.baseline import compare, parse_share, read_baseline, require_no_regression
from hwautoml.pipeline.verbs.bench_result import BenchResult, BenchRow


def row(median_ms: float, *, reference_ms: float = 1.0, spread: float = 0.002, **changes: Any) -> BenchRow:
    conditions = {"fingerprint": "here", "reference": "reference/v1", "reference_median_ms": reference_ms}
    given = {"artifact": "a.onnx", "interval_ms": (median_ms * (1 - spread), median_ms * (1 + spread)), **changes}
    return BenchRow(runtime="onnxruntime", threads=1, batch=1, median_ms=median_ms, conditions=conditions, **given)


def against(rows: list[BenchRow], baseline: list[BenchRow], limit: float = 0.05) -> BenchResult:
    return BenchResult("cpu", tuple(rows), against=compare(rows, baseline, limit))


def test_the_machines_own_speed_is_divided_out() -> None:
    result = against([row(1.3, reference_ms=1.3)], [row(1.0)])
    assert result.against is not None
    (found,) = result.against.rows
    assert found.slower == pytest.approx(1.0) and found.machine_slower == pytest.approx(1.3)
    require_no_regression(result)


@pytest.mark.parametrize(("median_ms", "fails"), [(1.0, False), (1.04, False), (1.07, True), (0.5, False)])
def test_slower_than_allowed_fails(median_ms: float, fails: bool) -> None:
    result = against([row(median_ms)], [row(1.0)])
    assert result["against"]["rows"][0]["failed"] is fails
    if fails:
        with pytest.raises(RegressionError, match=r"a\.onnx on onnxruntime takes \+7\.0%") as caught:
            require_no_regression(result)
        assert caught.value.exit_code == 12


def test_what_noise_explains_does_not_fail() -> None:
    (found,) = compare([row(1.07, spread=0.2)], [row(1.0)], 0.05).rows
    assert not found.failed and found.interval[0] < 1 < found.interval[1]


def test_moved_files_are_known_by_their_name_where_it_is_unique() -> None:
    moved = row(1.0, artifact="/elsewhere/a.onnx")
    assert compare([moved], [row(1.0)], 0.05).rows
    with pytest.raises(InvalidValueError, match="has none of what was measured"):
        compare([moved], [row(1.0), row(1.0, artifact="b/a.onnx")], 0.05)


def test_new_artifacts_are_named() -> None:
    found = compare([row(1.0), row(2.0, artifact="new.onnx")], [row(1.0)], 0.05)
    assert found.not_in_baseline == ("new.onnx on onnxruntime",)


@pytest.mark.parametrize(("key", "text"), [("fingerprint", "another machine"), ("reference", "another reference")])
def test_figures_of_another_machine_are_refused(key: str, text: str) -> None:
    other = row(1.0)
    other = replace(other, conditions={**other.conditions, key: "other"})
    with pytest.raises(InvalidValueError, match=text):
        compare([row(1.0)], [other], 0.05)


def test_baselines_are_read_and_what_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps({"rows": [row(1.0).to_json()]}))
    assert read_baseline(path) == [row(1.0)]
    for text in ("[]", '{"rows": []}', '{"rows": [{"artifact": "x"}]}'):
        path.write_text(text)
        with pytest.raises(InvalidValueError, match=r"baseline\.json is no baseline: it needs rows with artifact"):
            read_baseline(path)
    path.write_text('{"rows": [}')
    with pytest.raises(RunFolderError, match="damaged at line 1, column 11"):
        read_baseline(path)


@given(st.floats(0, 99.9))
def test_shares(percent: float) -> None:
    assert parse_share(f"{percent}%") == pytest.approx(percent / 100)
    assert parse_share(percent / 100) == pytest.approx(percent / 100)


@pytest.mark.parametrize("text", ["", "%", "five", "100%", "-1%", "5", "nan", "nan%"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError, match="it must be a share"):
        parse_share(text)
