import pytest

from hwautoml.reports.formatting import (
    count,
    duration,
    interval_ms,
    milliseconds,
    percent,
    significant,
)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.03123, "0.0312"), (0.2139, "0.214"), (9.999, "10.00"), (12.34, "12.3"), (1234.5, "1234"), (0.0, "0.0")],
)
def test_three_significant_digits(value, shown) -> None:
    assert significant(value) == shown


def test_units_and_what_is_missing() -> None:
    assert milliseconds(0.2139) == "0.214 ms"
    assert milliseconds(None) == percent(None) == interval_ms(None) == "–"
    assert interval_ms((0.2, 0.3)) == "0.200–0.300 ms"
    assert percent(0.98944) == "98.9 %"
    assert [count(n) for n in (7, 9999, 266_123, 9_690_000, 2.5e9)] == ["7", "9,999", "266 k", "9.69 M", "2.50 G"]
    assert [duration(s) for s in (1.25, 60, 812, 4000)] == ["1.2 s", "1 min", "13 min 32 s", "1 h 06 min"]
