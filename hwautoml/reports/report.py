"""Write a report: ``report.html``, ``front.png`` and ``candidates.csv``."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwautoml.core.storage import replaced_atomically, write_atomically
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
    files = ReportFiles(out_dir / "report.html", out_dir / "front.png", out_dir / "candidates.csv")
    write_atomically(files.csv, candidates_csv(report))
    with replaced_atomically(files.png) as temporary:
        save_front(report, temporary)
    write_atomically(files.html, html_page(report))
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
        writer.writerow(
            [
                row.architecture_id,
                int(row.on_front),
                int(row.chosen),
                row.accuracy_val,
                row.latency_ms,
                row.latency_std_ms,
                row.origin,
                *(own[r].median_ms if r in own else None for r in runtimes),
                *(row.values.get(name) for name in names),
            ]
        )
    return out.getvalue()
