"""What a run and its searches judge networks by."""

from __future__ import annotations

from collections.abc import Sequence

from hwautoml.core.objective import Limit
from hwautoml.errors import InvalidValueError
from hwautoml.objectives import load_objectives
from hwautoml.objectives.base import Definition

ACCURACY, LATENCY = "accuracy", "latency_ms"  # the best is best in the first; every run trades it against the second


def definitions_of(
    latency_ms: float, names: Sequence[str] = (), limits: Sequence[Limit] = ()
) -> tuple[Definition, ...]:
    """Accuracy, then latency with its limit, then the objectives that ``names`` and ``limits`` add.

    Raises:
        UnknownNameError: there is no objective of one of the names.
        InvalidValueError: a limit is in the wrong direction, or an objective has two different ones.
    """
    return load_objectives((ACCURACY, LATENCY, *names), (*limits, Limit(LATENCY, "<=", latency_ms)))


def latency_limit(latency_ms: float | None, limits: Sequence[Limit], default: float) -> float:
    """In ms: ``latency_ms``, or the one among ``limits``.

    Raises:
        InvalidValueError: both are given and differ, or it is no positive number.
    """
    asked = {limit.bound for limit in limits if limit.name == LATENCY} | ({latency_ms} - {None})
    if len(asked) > 1:
        raise InvalidValueError(f"one limit of {LATENCY} is possible, got {' and '.join(map(str, sorted(asked)))}")
    chosen = asked.pop() if asked else default
    if not 0 < chosen < float("inf"):
        raise InvalidValueError(f"latency limit must be a positive number of ms, got {chosen}")
    return chosen
