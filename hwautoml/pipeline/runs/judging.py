"""What a run and its searches judge networks by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.objective import Limit
from hwautoml.core.space import Architecture, SearchSpace
from hwautoml.errors import InvalidValueError
from hwautoml.objectives import known_values, load_objectives
from hwautoml.objectives.base import Definition
from hwautoml.searchers.problem import encoded

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


def latency_limit(latency_ms: float | None, limits: Sequence[Limit]) -> float | None:
    """In ms: ``latency_ms``, or the one among ``limits``; None where there is neither.

    Raises:
        InvalidValueError: both are given and differ, or it is no positive number.
    """
    asked = {limit.bound for limit in limits if limit.name == LATENCY} | (set() if latency_ms is None else {latency_ms})
    if len(asked) > 1:
        raise InvalidValueError(f"one limit of {LATENCY} is possible, got {' and '.join(map(str, sorted(asked)))}")
    chosen = next(iter(asked), None)
    if chosen is not None and not 0 < chosen < float("inf"):
        raise InvalidValueError(f"latency limit must be a positive number of ms, got {chosen}")
    return chosen


def meets_known_limits(
    definitions: Sequence[Definition], space: SearchSpace, architectures: Sequence[Architecture]
) -> NDArray[np.bool_]:
    """(num_architectures,): whether each meets the limits of what is known of it for sure, whatever the target."""
    limited = [d for d in definitions if d.objective.source == "known" and d.objective.limit is not None]
    values, _ = known_values(limited, space)(encoded(space, architectures))
    signs = np.array([d.objective.sign for d in limited])
    bounds = np.array([d.objective.minimised_limit for d in limited])
    return np.asarray((signs * values <= bounds).all(axis=1))
