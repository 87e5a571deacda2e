"""Is anything slower than it was? A bench compared with an earlier one, for CI."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from hwautoml.errors import InvalidValueError, RegressionError
from hwautoml.pipeline.verbs.bench_result import BenchResult, BenchRow, Comparison, RowComparison
from hwautoml.store.files import read_json

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


def read_baseline(path: Path) -> list[BenchRow]:
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
    return [BenchRow.from_json(row, str(path)) for row in rows]


def compare(rows: Sequence[BenchRow], baseline: Sequence[BenchRow], fail_above: float) -> Comparison:
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
            missing.append(f"{row.artifact} on {row.runtime}")
            continue
        _require_comparable(row, former)
        compared.append(_comparison(row, former, fail_above))
    if not compared:
        raise InvalidValueError(
            f"the baseline has none of what was measured: {', '.join(missing)}",
            fix="make it anew: hwautoml bench ... --json > baseline.json",
        )
    return Comparison(fail_above, tuple(compared), tuple(missing))


def require_no_regression(result: BenchResult) -> None:
    """Raises RegressionError when a comparison failed."""
    against = result.against
    failed = [] if against is None else [row for row in against.rows if row.failed]
    if against is not None and failed:
        text = "; ".join(
            f"{found.row.artifact} on {found.row.runtime} takes {found.slower - 1:+.1%} "
            f"(95 % {found.interval[0] - 1:+.1%} to {found.interval[1] - 1:+.1%})"
            for found in failed
        )
        raise RegressionError(f"slower than the baseline by more than {against.fail_above:.3g}: {text}")


def _former(row: BenchRow, baseline: Sequence[BenchRow]) -> BenchRow | None:
    """By identity; a file that was moved is known by its name where that is unique."""
    same = [former for former in baseline if former.identity == row.identity]
    if not same:
        name, others = Path(row.artifact).name, row.identity[1:]
        same = [b for b in baseline if Path(b.artifact).name == name and b.identity[1:] == others]
    return same[0] if len(same) == 1 else None


def _require_comparable(row: BenchRow, former: BenchRow) -> None:
    for key, text in (("fingerprint", "machine or runtime version"), ("reference", "reference network")):
        then, now = former.conditions.get(key), row.conditions.get(key)
        if then != now:
            raise InvalidValueError(
                f"{row.artifact} on {row.runtime}: the baseline was measured with another {text}: "
                f"{then!r}, now {now!r}",
                fix="make the baseline anew on this machine: hwautoml bench ... --json > baseline.json",
            )


def _comparison(row: BenchRow, former: BenchRow, fail_above: float) -> RowComparison:
    now, then = (float(r.conditions["reference_median_ms"]) for r in (row, former))
    slower = row.median_ms / now / (former.median_ms / then)
    deviation = math.hypot(_deviation(row), _deviation(former), SESSION_DEVIATION)
    low, high = slower * math.exp(-1.96 * deviation), slower * math.exp(1.96 * deviation)
    failed = slower - 1 > fail_above and low > 1
    return RowComparison(row, former.median_ms, now / then, slower, (low, high), failed)


def _deviation(row: BenchRow) -> float:
    """Relative standard deviation of the median."""
    low, high = row.interval_ms
    return (high - low) / (2 * 1.96 * row.median_ms)
