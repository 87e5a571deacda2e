"""Pictures of latency tables as PNG: predicted against measured, the most expensive layers, two tables compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hwautoml.core.table_facts import FittedNetwork, LayerRatio, LayerTime
from hwautoml.reports.front_image import BLUE, GREY, ORANGE, RED, TEAL, _plain

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

#: Ranges wider than this have a mark at each power of ten only.
_MANY_TICKS = 300.0
_ORIGIN_COLORS = {"measured": BLUE, "inferred": TEAL, "estimated": ORANGE}


def save_table_picture(
    title: str,
    origin: str,
    networks: Sequence[FittedNetwork],
    check: Mapping[str, Any],
    layers: Sequence[LayerTime],
    path: Path,
) -> None:
    """``layers`` are those with the largest shares, the largest first.

    ``check`` is a table's hold-out check, whose networks have id, measured_ms, predicted_ms and deviation_ms.
    """
    figure = _figure()
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    if networks:
        _draw_networks(left, networks, check)
    else:
        left.text(
            0.5,
            0.5,
            f"no network was measured:\nall figures are {origin}",
            ha="center",
            va="center",
            transform=left.transAxes,
            color=RED,
        )
        left.set_axis_off()
    _draw_layers(right, layers)
    figure.suptitle(_plain(title), x=0.01, ha="left", fontsize=11)
    _save(figure, path)


def save_comparison(
    titles: Sequence[str], means_ms: NDArray[Any], layers: Sequence[LayerRatio], level: float, path: Path
) -> None:
    """``means_ms`` (2, n): what both tables predict for the same networks."""
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = _figure()
    for axes, first, second, what in (
        (figure.add_subplot(1, 2, 1), means_ms[0], means_ms[1], "random networks, predicted"),
        (
            figure.add_subplot(1, 2, 2),
            [layer.first_ms for layer in layers],
            [layer.second_ms for layer in layers],
            "layers",
        ),
    ):
        axes.scatter(first, second, s=7, color=BLUE, alpha=0.5, linewidths=0)
        ends = [min(first), max(first)]
        axes.plot(
            ends,
            [level * end for end in ends],
            color=RED,
            linewidth=1,
            linestyle="--",
            label=f"times {level:.3g} (median over networks)",
        )
        axes.set(xscale="log", yscale="log", title=what)
        for axis, values in ((axes.xaxis, first), (axes.yaxis, second)):
            is_wide = max(values) > _MANY_TICKS * min(values)
            axis.set_major_locator(LogLocator(subs=(1,) if is_wide else (1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        _label(axes, f"{_plain(titles[0])}\nms", f"{_plain(titles[1])}\nms")
        axes.legend(frameon=False, fontsize=8, loc="upper left")
    _save(figure, path)


def _draw_networks(axes: Axes, networks: Sequence[FittedNetwork], check: Mapping[str, Any]) -> None:
    checked = check.get("networks", [])
    unseen = {row["id"] for row in checked}
    seen = [network for network in networks if network.id not in unseen]
    end = 1.05 * max(network.measured_ms for network in networks)
    axes.plot([0, end], [0, end], color=GREY, linewidth=1, zorder=1)
    axes.scatter(
        [network.measured_ms for network in seen],
        [network.fitted_ms for network in seen],
        s=18,
        color=GREY,
        linewidths=0,
        label="fitted: the table has learnt from them",
    ) if seen else None
    if checked:
        how = check.get("method", "before it was measured")
        axes.errorbar(
            [row["measured_ms"] for row in checked],
            [row["predicted_ms"] for row in checked],
            yerr=[1.96 * row["deviation_ms"] for row in checked],
            fmt="o",
            markersize=4,
            color=BLUE,
            elinewidth=0.9,
            label=f"predicted, 95 % ({how})",
        )
    _label(axes, "measured (ms)", "predicted by the table (ms)")
    axes.legend(frameon=False, fontsize=8, loc="upper left")


def _draw_layers(axes: Axes, layers: Sequence[LayerTime]) -> None:
    rows = list(reversed(layers))
    colors = [_ORIGIN_COLORS[row.origin] for row in rows]
    axes.barh([_short(row.key) for row in rows], [100 * row.share for row in rows], color=colors)
    for origin in sorted({row.origin for row in rows}):
        axes.barh([_short(rows[0].key)], [0], color=_ORIGIN_COLORS[origin], label=origin)
    axes.tick_params(axis="y", labelsize=7)
    _label(axes, "share of a random network's predicted time (%)", "")
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def _short(key: str) -> str:
    """Without schema, precision and batch, which all layers of a table share."""
    return "/".join(key.split("/")[1:-2])


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _figure() -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    figure = Figure(figsize=(11, 4.8), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", metadata={"Software": "hwautoml"})
