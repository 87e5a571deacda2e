"""A comparison of models as a PNG: one bar per row, with intervals and tails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hwautoml.reports.front_image import BLUE, GREY, RED, TEAL

_COLORS = (BLUE, TEAL, "#e8590c", "#7048e8", GREY)


def save_bench(rows: Sequence[Mapping[str, Any]], target: str, path: Path) -> Path:
    """``rows`` as ``bench`` returns them: median of a run, 95 % interval, and p95 as a mark."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    runtimes = list(dict.fromkeys(row["runtime"] for row in rows))
    figure = Figure(figsize=(8, 1.4 + 0.45 * len(rows)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for position, row in enumerate(reversed(rows)):
        low, high = row["interval_ms"]
        median, color = row["median_ms"], _COLORS[runtimes.index(row["runtime"]) % len(_COLORS)]
        axes.barh(position, median, color=color, height=0.62, alpha=0.85)
        axes.errorbar(
            median,
            position,
            xerr=[[max(median - low, 0)], [max(high - median, 0)]],
            color="black",
            elinewidth=1,
            capsize=3,
        )
        if row["p95_ms"] is not None:
            axes.plot(row["p95_ms"], position, marker="|", color=RED, markersize=11)
        axes.annotate(f"{median:.4g}", (median, position), xytext=(6, 6), textcoords="offset points", fontsize=8)
    batches = sorted({row["batch"] for row in rows})
    labels = [
        f"{_short(row['artifact'])}\n{row['runtime']}" + (f", batch {row['batch']}" if len(batches) > 1 else "")
        for row in reversed(rows)
    ]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    what = f"ms per run of {' or '.join(map(str, batches))} image(s), {rows[0]['threads']} thread(s)"
    origins = sorted({row["origin"] for row in rows})
    axes.set_xlabel(f"{what}: median, 95 % interval; red: p95 ({' or '.join(origins)})")
    axes.set_title(f"on {target}".replace("$", r"\$"), loc="left", fontsize=11)
    axes.margins(x=0.12)
    axes.grid(axis="x", alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png", metadata={"Software": "hwautoml"})
    return path


def _short(artifact: str) -> str:
    """The last two parts of a path say enough; matplotlib reads text between dollar signs as a formula."""
    return "/".join(Path(artifact).parts[-2:]).replace("$", r"\$")
