"""How much a measuring call was disturbed: what the reference network's own time says about the others'.

A busy neighbour slows every model down, but not equally: dividing by the reference leaves, of a slowdown by a factor
s, roughly log(s) / 2 (a standard deviation) in each result. So such results are doubted by that much, measured again
where there is time, and give way to quieter ones. So do results whose samples scatter far more than others of their
kind: bursts shorter than the reference's turns hit one model and spare the reference.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

DRIFT = 0.02  # within this the reference divides out what there is: it is not known better itself
_DOUBT = 0.5
_MAX_ATTEMPTS = 3

Line = Mapping[str, Any]


def usual_reference_ms(lines: Iterable[Line]) -> float | None:
    """The reference's median over journal lines; None where there was no reference."""
    known = [line["conditions"].get("reference_median_ms") for line in lines]
    values = [value for value in known if value is not None]
    return float(np.median(values)) if values else None


def disturbance(line: Line, usual_ms: float | None) -> float:
    """|log| of the reference's time in the line's call over its usual time; 0 without a reference."""
    reference = line["conditions"].get("reference_median_ms")
    return 0.0 if usual_ms is None or reference is None else abs(math.log(reference / usual_ms))


def at_usual_speed(line: Line, usual_ms: float | None) -> tuple[float, float]:
    """Median and deviation in ms at the usual speed; the deviation includes what a disturbance adds."""
    reference = line["conditions"].get("reference_median_ms")
    scale = 1.0 if usual_ms is None or reference is None else usual_ms / reference
    median_ms, disturbed = scale * line["median_ms"], disturbance(line, usual_ms)
    doubt = _DOUBT * disturbed if disturbed > DRIFT else 0.0
    return median_ms, math.hypot(scale * line["deviation_ms"], doubt * median_ms)


def items(lines: Iterable[Line]) -> list[Line]:
    """The latest line of each layer and network, in the order they were first measured."""
    return list({_item(line): line for line in lines}.values())


def least_disturbed(lines: Sequence[Line], usual_ms: float | None) -> list[Line]:
    """The surest line of each layer and network, in the order they were first measured."""
    noisiest_first = sorted(lines, key=lambda line: -_noise(line, usual_ms))
    best = {_item(line): line for line in noisiest_first}
    return [best[_item(line)] for line in items(lines)]


def disturbed(lines: Sequence[Line], limit: float, max_scatter: float) -> list[Line]:
    """Lines of what was only ever measured under a disturbance above ``limit``, or with unusual scatter; worst first.

    Scatter is unusual above ``max_scatter`` times the median of the line's kind (and above what drifts unnoticed).
    What was tried three times already is left out: this machine is like that.
    """
    usual_ms, attempts = usual_reference_ms(lines), Counter(map(_item, lines))
    scatters = {kind: [_scatter(line) for line in lines if line["record"] == kind] for kind, _ in attempts}
    allowed = {kind: max(max_scatter * float(np.median(values)), DRIFT) for kind, values in scatters.items()}

    def badness(line: Line) -> float:
        return max(disturbance(line, usual_ms) / limit, _scatter(line) / allowed[line["record"]])

    tried_less = [line for line in lines if attempts[_item(line)] < _MAX_ATTEMPTS]
    least = {_item(line): line for line in sorted(tried_less, key=lambda line: -badness(line))}
    return sorted((line for line in least.values() if badness(line) > 1), key=lambda line: -badness(line))


def _item(line: Line) -> tuple[str, str]:
    return line["record"], line.get("key") or line.get("architecture_id") or ""


def _scatter(line: Line) -> float:
    return float(line["deviation_ms"] / line["median_ms"])


def _noise(line: Line, usual_ms: float | None) -> float:
    median_ms, deviation_ms = at_usual_speed(line, usual_ms)
    return deviation_ms / median_ms
