"""Figures as people read them, and text that is safe inside HTML."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape

MISSING = "–"


def text(value: object) -> str:
    """Escaped for HTML text and for quoted attributes: class and file names are untrusted."""
    return escape(str(value), quote=True)


def milliseconds(value: float | None) -> str:
    return MISSING if value is None else f"{significant(value)} ms"


def significant(value: float, digits: int = 3) -> str:
    """Three significant digits without an exponent: 0.0312, 0.214, 12.3, 1230."""
    if value == 0 or not math.isfinite(value):
        return str(value)
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:.{decimals}f}"


def interval_ms(interval: tuple[float, float] | None) -> str:
    return MISSING if interval is None else f"{significant(interval[0])}–{significant(interval[1])} ms"


def percent(fraction: float | None, decimals: int = 1) -> str:
    return MISSING if fraction is None else f"{100 * fraction:.{decimals}f} %"


def count(value: float) -> str:
    """1234567 -> 1.23 M; whole below ten thousand."""
    for size, suffix in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= size:
            return f"{significant(value / (1e3 if suffix == ' k' else size))}{suffix}"
    return f"{value:,.0f}" if float(value).is_integer() else significant(value)


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if rest else f"{minutes} min"


def table(head: Iterable[str], rows: Iterable[Iterable[str]], css_class: str = "") -> str:
    """Cells are HTML already."""
    header = "".join(f"<th scope='col'>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    inner = f"<thead><tr>{header}</tr></thead><tbody>{body}</tbody>"
    return f"<div class='scroll'><table class='{css_class}'>{inner}</table></div>"
