from __future__ import annotations

import pytest

from hwautoml.core.duration import MAX_SEC, format_duration, parse_duration, require_duration
from hwautoml.errors import InvalidValueError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("20m", 1200), ("1h30m", 5400), ("2h", 7200), ("45", 45), (" 1.5M ", 90), ("1m30", 90)],
)
def test_durations_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "5d", "-3s", "0", "0s", "1.2.3s", "10 m", "s", "nan", "inf", "30m1h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError):
        parse_duration(text)


def test_durations_as_people_read_them() -> None:
    assert [format_duration(s) for s in (0.4, 59.6, 83, 3600, 7265)] == ["0s", "1m00s", "1m23s", "1h00m", "2h01m"]


def test_zero_is_a_duration_where_nothing_need_be_done() -> None:
    assert parse_duration("0s", may_be_zero=True) == 0.0
    assert require_duration(0.0, "tune_sec", may_be_zero=True) == 0.0


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), MAX_SEC + 1])
@pytest.mark.parametrize("may_be_zero", [False, True])
def test_what_no_work_can_be_given_is_refused_by_name(seconds: float, may_be_zero: bool) -> None:
    with pytest.raises(InvalidValueError, match="^budget_sec: must (?s:.*)fix: budget_sec=90$") as caught:
        require_duration(seconds, "budget_sec", may_be_zero=may_be_zero)
    assert caught.value.exit_code == 2
    with pytest.raises(InvalidValueError, match=r"^--budget: .*\n  fix: --budget 90s \(or 20m, 1h30m\)$"):
        parse_duration(str(seconds), "--budget", may_be_zero=may_be_zero)
