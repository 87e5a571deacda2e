"""Put the page together: templates, sections, plot data and plotly itself, all in one file."""

from __future__ import annotations

import re
from importlib import resources

from hwautoml.reports import sections
from hwautoml.reports.formatting import text
from hwautoml.reports.plot_data import plot_json
from hwautoml.reports.report_data import ReportData

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


def html_page(data: ReportData) -> str:
    """Complete HTML that loads nothing: its content security policy forbids every request."""
    from plotly.offline import get_plotlyjs

    parts = {
        "title": text(data.title),
        "style": _template("style.css"),
        "header": sections.header(data),
        "front": sections.front(data),
        "network": sections.network(data),
        "prediction": sections.prediction(data),
        "figures": sections.figures(data),
        "candidates": sections.candidates(data),
        "conditions": sections.conditions(data),
        "data": plot_json(data),
        "plotly": get_plotlyjs(),
        "script": _template("report.js"),
    }
    # One pass, so that placeholders in a class name or in plotly are never filled.
    return _PLACEHOLDER.sub(lambda match: parts[match[1]], _template("page.html"))


def _template(name: str) -> str:
    return resources.files("hwautoml.reports").joinpath("templates", name).read_text(encoding="utf-8")
