"""The front as a PNG, for places where a page cannot be shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwautoml.reports.plot_data import shown_candidates
from hwautoml.reports.report_data import ReportData

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

GREY, BLUE, TEAL, ORANGE, RED = "#b6bdc6", "#2f6fed", "#0c8599", "#e8590c", "#c92a2a"


def save_front(data: ReportData, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    figure = Figure(figsize=(8, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw_candidates(axes, data)
    _draw_measured(axes, data)
    if data.limit_ms is not None:
        axes.axvline(data.limit_ms, color=RED, linestyle="--", linewidth=1.2, label=f"limit {data.limit_ms:g} ms")
    axes.set_xlabel(f"latency on {_plain(data.target)} (ms)")
    axes.set_ylabel(f"validation {_plain(data.metric)} (%)")
    axes.set_title(_plain(data.title), loc="left", fontsize=11)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right", frameon=False, fontsize=9)
    figure.savefig(path, format="png", metadata={"Software": "hwautoml"})


def _plain(name: str) -> str:
    """Matplotlib reads text between dollar signs as a formula."""
    return name.replace("$", r"\$")


def _draw_candidates(axes: Axes, data: ReportData) -> None:
    shown = shown_candidates(data)
    others = [row for row in shown if not row.on_front]
    front = sorted((row for row in shown if row.on_front), key=lambda row: row.latency_ms or 0.0)
    for rows, color, size, label in ((others, GREY, 12, "other candidates"), (front, BLUE, 22, "front (predicted)")):
        if rows:
            x, y = [row.latency_ms or 0.0 for row in rows], [100 * (row.accuracy_val or 0.0) for row in rows]
            axes.scatter(x, y, s=size, color=color, linewidths=0, label=label, zorder=2)
    if front:
        x, y = [row.latency_ms or 0.0 for row in front], [100 * (row.accuracy_val or 0.0) for row in front]
        axes.step(x, y, where="post", color=BLUE, linewidth=1, alpha=0.6, zorder=1)


def _draw_measured(axes: Axes, data: ReportData) -> None:
    for chosen, color, marker, size, label in ((False, TEAL, "D", 5, "measured"), (True, ORANGE, "*", 15, "chosen")):
        complete = (row for row in data.specialised if row.measured and row.accuracy_val is not None)
        rows = [row for row in complete if row.chosen == chosen]
        if rows:
            latencies = [row.fastest[1] for row in rows if row.fastest]
            x = [latency.median_ms for latency in latencies]
            low = [max(latency.median_ms - latency.interval_ms[0], 0.0) for latency in latencies]
            high = [max(latency.interval_ms[1] - latency.median_ms, 0.0) for latency in latencies]
            axes.errorbar(
                x,
                [100 * (row.accuracy_val or 0.0) for row in rows],
                xerr=[low, high],
                fmt=marker,
                color=color,
                markersize=size,
                markeredgecolor="white",
                elinewidth=1,
                label=label,
                zorder=3,
            )
