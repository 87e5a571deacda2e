"""Write a report: ``report.html``, ``front.png`` and ``candidates.csv``."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwautoml.reports.front_image import save_front
from hwautoml.reports.page import html_page
from hwautoml.reports.report_data import ReportData


@dataclass(frozen=True)
class ReportFiles:
    html: Path
    png: Path
    csv: Path


def write_report(data: Mapping[str, Any] | ReportData, out_dir: Path) -> ReportFiles:
    """Each file appears complete or not at all, and replaces an older one.

    ``data`` is described in ``report_data``; what it lacks is left out of the page.

    Raises:
        InvalidValueError: ``data`` has a wrong, missing or unknown field.
    """
    report = data if isinstance(data, ReportData) else ReportData.from_dict(data)
    out_dir.mkdir(parents=True, exist_ok=True)
    files = ReportFiles(out_dir / "report.html", out_dir / "front.png", out_dir / "candidates.csv")
    _write(files.csv, lambda path: path.write_text(candidates_csv(report), encoding="utf-8", newline=""))
    _write(files.png, lambda path: save_front(report, path))
    _write(files.html, lambda path: path.write_text(html_page(report), encoding="utf-8"))
    return files


def candidates_csv(report: ReportData) -> str:
    """One line per candidate, the measured medians of those that were measured among them."""
    runtimes = sorted({runtime for row in report.specialised for runtime in row.measured})
    measured = {row.architecture_id: row.measured for row in report.specialised}
    names = list(dict.fromkeys(name for row in report.candidates for name in row.values))
    columns = ["architecture", "on_front", "chosen", "accuracy_val", "latency_ms", "latency_std_ms", "latency_origin"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*columns, *(f"measured_{runtime}_ms" for runtime in runtimes), *names])
    for row in report.candidates:
        own = measured.get(row.architecture_id, {})
        writer.writerow([
            row.architecture_id, int(row.on_front), int(row.chosen), row.accuracy_val, row.latency_ms,
            row.latency_std_ms, row.origin, *(own[r].median_ms if r in own else None for r in runtimes),
            *(row.values.get(name) for name in names),
        ])  # fmt: skip
    return out.getvalue()


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Through a file beside it, so that a reader or an interruption never sees half of one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
