"""What networks are judged by; one file per objective, found by name, those of other packages too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.latency_predictor import Latencies
from hwautoml.core.network_costs import CostTable
from hwautoml.core.networks import Networks
from hwautoml.core.objective import Limit
from hwautoml.core.plugins import Plugins
from hwautoml.core.space import SearchSpace
from hwautoml.errors import InvalidValueError
from hwautoml.objectives.base import Array, Definition

OBJECTIVES = Plugins(
    "objective",
    "hwautoml.objectives",
    {
        name: f"hwautoml.objectives.{name}:DEFINITION"
        for name in ("accuracy", "latency_ms", "macs", "parameters", "peak_activation_bytes", "num_kernels")
    },
)


def load_objective(name: str) -> Definition:
    """The objective called ``name``, without a limit.

    Raises:
        UnknownNameError: nothing has that name; the known ones are listed, nearest first.
        MissingDependencyError: another package offers it, and it cannot be imported.
        InvalidValueError: what another package offers is no definition, or one of another name.
    """
    found = OBJECTIVES.load(name)
    if not isinstance(found, Definition) or found.objective.name != name:
        raise InvalidValueError(
            f"objective {name!r} of package {OBJECTIVES.origin(name)!r} must be a Definition of that name, "
            f"got {found!r:.80}",
            fix="see docs/extending/objective.md",
        )
    return found


def load_objectives(names: Sequence[str], limits: Sequence[Limit] = ()) -> tuple[Definition, ...]:
    """Those called ``names``, then further ones that ``limits`` name, all in order and with their limits.

    Raises:
        UnknownNameError: nothing has one of the names.
        InvalidValueError: two different limits of one objective, or one in the wrong direction.
    """
    by_name = {limit.name: limit for limit in limits}
    for limit in limits:
        if limit != by_name[limit.name]:
            raise InvalidValueError(f"{limit.name} has two limits, {limit} and {by_name[limit.name]}", fix="keep one")
    definitions = (load_objective(name) for name in dict.fromkeys([*names, *by_name]))
    return tuple(d.limited(by_name[d.objective.name]) if d.objective.name in by_name else d for d in definitions)


def known_values(
    definitions: Sequence[Definition], space: SearchSpace, latencies: Latencies | None = None
) -> Callable[[NDArray[np.int64]], tuple[Array, Array]]:
    """Values and deviations, both (n, num_objectives), of option indices (n, num_choices) before anything is trained;
    NaN in the columns of what is scored."""
    cost_table = CostTable(space)

    def known(encodings: NDArray[np.int64]) -> tuple[Array, Array]:
        networks = Networks(encodings, cost_table, latencies)
        found = np.full((2, len(encodings), len(definitions)), np.nan)
        for column, definition in enumerate(definitions):
            if definition.known is not None:
                found[:, :, column] = _checked(definition, definition.known(networks), len(encodings))
        return found[0], found[1]

    return known


def scored_values(definitions: Sequence[Definition]) -> Callable[[Any], Array]:
    """Values (num_objectives,) of an outcome; NaN where it says nothing."""

    def score(outcome: Any) -> Array:
        return np.array([np.nan if d.scored is None else d.scored(outcome) for d in definitions], dtype=np.float64)

    return score


def _checked(definition: Definition, found: tuple[Array, Array], number: int) -> tuple[Array, Array]:
    values, deviations = found
    if np.shape(values) != (number,) or np.shape(deviations) != (number,):
        raise InvalidValueError(
            f"objective {definition.objective.name!r}: known() of {number} networks must return two arrays "
            f"({number},), got {np.shape(values)} and {np.shape(deviations)}"
        )
    return values, deviations
