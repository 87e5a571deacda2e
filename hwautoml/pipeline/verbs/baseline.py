"""Is anything slower than it was? A bench compared with an earlier one, for CI."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hwautoml.errors import InvalidValueError, RegressionError
from hwautoml.store.files import read_json

Row = Mapping[str, Any]
#: By how much two sessions differ beyond what either's own interval says (docs/measuring.md): one standard deviation.
SESSION_DEVIATION = 0.006
_IDENTITY = ("artifact", "runtime", "threads", "batch")


def parse_share(value: str | float) -> float:
    """``5%`` or ``0.05`` to 0.05.

    Raises:
        InvalidValueError: no number, or not between 0 and 100 %.
    """
    text = str(value).strip()
    try:
        share = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        share = math.nan
    if not 0 <= share < 1:
        raise InvalidValueError(f"it must be a share such as 5% or 0.05, got {value!r}")
    return share


def read_baseline(path: Path) -> list[Row]:
    """The rows of a stored ``bench --json``.

    Raises:
        RunFolderError: no such file, or damaged (with line and column).
        InvalidValueError: it holds something else.
    """
    data = read_json(path)
    rows = data.get("rows") if isinstance(data, dict) else None
    needed = {*_IDENTITY, "median_ms", "interval_ms", "conditions"}
    if not isinstance(rows, list) or not rows or not all(isinstance(r, dict) and needed <= set(r) for r in rows):
        raise InvalidValueError(
            f"{path} is no baseline: it needs rows with {', '.join(sorted(needed))}",
            fix=f"hwautoml bench ... --json > {path}",
        )
    return rows


def compare(rows: Sequence[Row], baseline: Sequence[Row], fail_above: float) -> dict[str, Any]:
    """Every row against its former self, at equal speed of the machine (by the reference network).

    ``slower`` is the ratio of the medians, each over its session's reference, with a 95 % interval from both
    medians' intervals and what sessions differ by. A row fails when ``slower - 1`` is above ``fail_above`` and
    the interval lies above 1.

    Raises:
        InvalidValueError: nothing in common, or another machine or reference.
    """
    compared, missing = [], []
    for row in rows:
        former = _former(row, baseline)
        if former is None:
            missing.append(f"{row['artifact']} on {row['runtime']}")
            continue
        _require_comparable(row, former)
        compared.append(_comparison(row, former, fail_above))
    if not compared:
        raise InvalidValueError(
            f"the baseline has none of what was measured: {', '.join(missing)}",
            fix="make it anew: hwautoml bench ... --json > baseline.json",
        )
    return {"fail_above": fail_above, "rows": compared, "not_in_baseline": missing}


def require_no_regression(result: Mapping[str, Any]) -> None:
    """Raises RegressionError when a comparison failed."""
    against = result["against"]
    failed = [] if against is None else [row for row in against["rows"] if row["failed"]]
    if failed:
        text = "; ".join(
            f"{row['artifact']} on {row['runtime']} takes {row['slower'] - 1:+.1%} "
            f"(95 % {row['interval'][0] - 1:+.1%} to {row['interval'][1] - 1:+.1%})"
            for row in failed
        )
        raise RegressionError(f"slower than the baseline by more than {against['fail_above']:.3g}: {text}")


def _former(row: Row, baseline: Sequence[Row]) -> Row | None:
    """By identity; a file that was moved is known by its name where that is unique."""
    same = [b for b in baseline if all(b[key] == row[key] for key in _IDENTITY)]
    if not same:
        name, others = Path(row["artifact"]).name, _IDENTITY[1:]
        same = [b for b in baseline if Path(b["artifact"]).name == name and all(b[key] == row[key] for key in others)]
    return same[0] if len(same) == 1 else None


def _require_comparable(row: Row, former: Row) -> None:
    for key, text in (("fingerprint", "machine or runtime version"), ("reference", "reference network")):
        then, now = former["conditions"].get(key), row["conditions"].get(key)
        if then != now:
            raise InvalidValueError(
                f"{row['artifact']} on {row['runtime']}: the baseline was measured with another {text}: "
                f"{then!r}, now {now!r}",
                fix="make the baseline anew on this machine: hwautoml bench ... --json > baseline.json",
            )


def _comparison(row: Row, former: Row, fail_above: float) -> dict[str, Any]:
    speeds = [r["conditions"]["reference_median_ms"] for r in (row, former)]
    slower = row["median_ms"] / speeds[0] / (former["median_ms"] / speeds[1])
    deviation = math.hypot(_deviation(row), _deviation(former), SESSION_DEVIATION)
    interval = [slower * math.exp(-1.96 * deviation), slower * math.exp(1.96 * deviation)]
    return {
        **{key: row[key] for key in _IDENTITY},
        "median_ms": row["median_ms"],
        "baseline_median_ms": former["median_ms"],
        "machine_slower": speeds[0] / speeds[1],
        "slower": slower,
        "interval": interval,
        "failed": slower - 1 > fail_above and interval[0] > 1,
    }


def _deviation(row: Row) -> float:
    """Relative standard deviation of the median."""
    low, high = row["interval_ms"]
    return float((high - low) / (2 * 1.96 * row["median_ms"]))
