"""How near to limits a space comes, from what is known before anything is evaluated."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.objective import Limit, Objective
from hwautoml.core.space import Architecture, SearchSpace
from hwautoml.errors import InfeasibleLimitError
from hwautoml.searchers.problem import Known, SearchProblem, Values

NUM_STARTS = 30
ROOM = 1.25  # a limit that is proposed instead of one out of reach leaves a choice of networks

Cost = Callable[[NDArray[np.int64]], Values]
"""What to minimise: (n,) of option indices (n, num_choices)."""


def descend(
    space: SearchSpace, cost: Cost, rng: np.random.Generator, starts: Sequence[Architecture] = ()
) -> tuple[Architecture, float]:
    """The architecture of the lowest cost that coordinate descent finds, and that cost.

    It starts from the best of the smallest architecture, a few random ones and ``starts``.
    """
    drawn = (rng.integers(0, space.num_options) for _ in range(NUM_STARTS))
    first = [space.smallest(), *(space.decode(indices) for indices in drawn), *starts]
    encodings = np.array([space.encode(a) for a in first])
    costs = cost(encodings)
    current, value = encodings[int(costs.argmin())], float(costs.min())
    improved = True
    while improved:
        improved = False
        for index, number in enumerate(space.num_options):
            variants = np.repeat(current[None], number, axis=0)
            variants[:, index] = np.arange(number)
            costs = cost(variants)
            if costs.min() < value - 1e-12 * max(abs(value), 1.0):
                # Canonical, so that a choice without effect in it has the option that it has in every such network.
                current = space.encode(space.decode(variants[int(costs.argmin())]))
                value, improved = float(costs.min()), True
    return space.decode(current), value


def nearest_to_limits(problem: SearchProblem) -> Architecture:
    """What comes furthest below the limits by all that is known; without such limits the best in the first objective
    whose values are known, or a random one where none are."""
    is_known = ~problem.is_learned
    limited = np.flatnonzero(is_known & np.isfinite(problem.limits))
    if not is_known.any():
        return problem.space.sample(problem.rng)
    columns = limited if len(limited) else np.flatnonzero(is_known)[:1]
    cost = _cost(problem.objectives, problem.known, columns)
    return descend(problem.space, cost, problem.rng)[0]


def require_feasible(
    space: SearchSpace, objectives: Sequence[Objective], known: Known, rng: np.random.Generator
) -> None:
    """Refuses limits that nothing in the space meets, as far as that is known before anything is evaluated.

    Raises:
        InfeasibleLimitError: a limit is out of reach, or several are together; what is reachable is named.
    """
    unknown = np.isnan(known(space.encode(space.smallest())[None])[0][0])
    limited = [c for c, objective in enumerate(objectives) if objective.limit is not None and not unknown[c]]
    best: dict[int, Architecture] = {}
    for column in limited:
        best[column], _ = descend(space, _cost(objectives, known, [column]), rng)
        value = _value(space, known, best[column], column)
        if not objectives[column].is_met(value):
            raise _out_of_reach(space, objectives[column], best[column], value)
    for size in range(2, len(limited) + 1):  # pairs first, because a pair says more than all of them
        for columns in itertools.combinations(limited, size):
            found, _ = descend(space, _cost(objectives, known, columns), rng, [best[c] for c in columns])
            values = {column: _value(space, known, found, column) for column in columns}
            if not all(objectives[c].is_met(value) for c, value in values.items()):
                raise _contradiction(space, [objectives[c] for c in columns], found, list(values.values()))


def _cost(objectives: Sequence[Objective], known: Known, columns: Sequence[int] | NDArray[np.int64]) -> Cost:
    """One column itself; of several, the worst excess over a limit, and a little of the others'."""
    chosen = [objectives[c] for c in columns]
    signs = np.array([objective.sign for objective in chosen])
    if len(chosen) == 1:
        return lambda encodings: signs[0] * known(encodings)[0][:, columns[0]]
    limits = np.array([objective.minimised_limit for objective in chosen])
    scales = np.maximum(np.abs(limits), 1e-12)

    def excess(encodings: NDArray[np.int64]) -> Values:
        over = (signs * known(encodings)[0][:, columns] - limits) / scales
        return over.max(axis=1) + 0.1 * over.mean(axis=1)

    return excess


def _value(space: SearchSpace, known: Known, architecture: Architecture, column: int) -> float:
    return float(known(space.encode(architecture)[None])[0][0, column])


def _out_of_reach(space: SearchSpace, objective: Objective, best: Architecture, value: float) -> InfeasibleLimitError:
    assert objective.limit is not None
    extreme = "lowest" if objective.direction == "minimize" else "highest"
    origin = "predicted, " if objective.source == "measured" else ""
    return InfeasibleLimitError(
        f"no network of {space.name} meets {objective.limit_at(objective.limit)}; the {extreme} {objective.name} is "
        f"{objective.text(value)} ({origin}network {best.id})",
        fix=f"a looser limit, such as {_looser(objective, value)}, or a smaller image size",
    )


def _contradiction(
    space: SearchSpace, objectives: Sequence[Objective], nearest: Architecture, values: Sequence[float]
) -> InfeasibleLimitError:
    limits = " and ".join(str(o.limit_at(o.limit)) for o in objectives if o.limit is not None)
    reached = ", ".join(f"{o.name} {o.text(value)}" for o, value in zip(objectives, values, strict=True))
    missed = next((o, v) for o, v in zip(objectives, values, strict=True) if not o.is_met(v))
    return InfeasibleLimitError(
        f"no network of {space.name} was found that meets {limits} together, though each alone can be met; "
        f"the nearest ({nearest.id}) has {reached}",
        fix=f"loosen one of them, such as {_looser(*missed)}",
    )


def _looser(objective: Objective, reached: float) -> Limit:
    """One that leaves some room around a value that can be reached."""
    is_larger_looser = (objective.direction == "minimize") == (reached > 0)
    return objective.limit_at(float(f"{reached * ROOM if is_larger_looser else reached / ROOM:.2g}"))
