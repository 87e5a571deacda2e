"""The figures that ``templates/report.js`` draws, as JSON that is safe inside a script element."""

from __future__ import annotations

import json
from typing import Any

from hwautoml.reports.report_data import CandidateRow, ReportData

MAX_POINTS = 2000  # more SVG points than this make the page slow and show nothing new


def plot_json(data: ReportData) -> str:
    """Class names may hold ``</script>``, so no ``<`` is left; two line separators end JS strings."""
    text = json.dumps(plot_data(data), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def plot_data(data: ReportData) -> dict[str, Any]:
    return {
        "limit_ms": data.limit_ms,
        "target": data.target,
        "candidates": [_point(row) for row in shown_candidates(data)],
        "specialised": _measured_points(data),
        "metric": data.metric,
        "decision": data.decision,
        "matrices": {
            figure.identifier: {"names": figure.matrix.names, "counts": figure.matrix.counts}
            for figure in data.figures
            if figure.matrix is not None
        },
    }


def shown_candidates(data: ReportData) -> list[CandidateRow]:
    """Those with both figures: all of the front, and of the others evenly spread by latency."""
    complete = [row for row in data.candidates if row.latency_ms is not None and row.accuracy_val is not None]
    important = [row for row in complete if row.on_front or row.chosen]
    others = [row for row in complete if not (row.on_front or row.chosen)]
    others.sort(key=lambda row: row.latency_ms or 0.0)
    step = max(-(-len(others) // MAX_POINTS), 1)
    return important + others[::step]


def _point(row: CandidateRow) -> dict[str, Any]:
    figures = ", ".join(f"{name} {row.values[name]}" for name in key_values(row))
    return {
        "id": row.architecture_id,
        "x": row.latency_ms,
        "y": row.accuracy_val,
        "std": row.latency_std_ms,
        "origin": row.origin,
        "front": row.on_front,
        "chosen": row.chosen,
        "values": figures,
    }


def key_values(row: CandidateRow) -> list[str]:
    """The few choices that characterise an architecture: the first whose names have no dots in them
    and every stage's kind, depth and width; the blocks' details stay in the CSV."""
    return [name for name in row.values if name.count(".") <= 1][:14]


def _measured_points(data: ReportData) -> list[dict[str, Any]]:
    return [
        {
            "id": row.architecture_id,
            "runtime": runtime,
            "chosen": row.chosen,
            "accuracy": row.accuracy_val,
            "predicted": row.predicted_ms,
            "predicted_interval": row.predicted_interval,
            "measured": latency.median_ms,
            "interval": latency.interval_ms,
            "fastest": runtime == row.fastest[0] if row.fastest else False,
            "foretold": (row.predicted_form or data.predicted_runtime) in (None, runtime),
        }
        for row in data.specialised
        for runtime, latency in row.measured.items()
    ]
