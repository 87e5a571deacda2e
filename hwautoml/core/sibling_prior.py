"""A table for a device nobody has profiled, from the tables of devices like it.

Per layer, a device's time over its own level (the geometric mean of its layers' times) says what the
layer costs relative to others. That profile is alike on siblings, the level is not. So the prior has

    mean_k      = exp(mean over siblings of log(t_ks / level_s)) * common level
    deviation_k = mean_k * sqrt(relative spread over siblings^2 + the siblings' own deviations^2)

and the level is left to the first measurements (``at_level_of``). These entries are what people see; the
table predicts with the few-shot model (``few_shot``), which knows in which ways devices differ.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.few_shot import Sibling
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.layer import Layer, LayerCost
from hwautoml.core.learned_prior import learned_prior
from hwautoml.core.observation import Entry, Observation
from hwautoml.core.table_identity import TableIdentity
from hwautoml.errors import InvalidValueError

#: Relative deviation of one layer between two devices at the same level, before any sibling was compared ...
ASSUMED_SPREAD = 0.2
#: ... which counts as much as so many siblings.
_ASSUMED_WEIGHT = 2.0
_MIN_SHARE = 0.05  # of an entry's own mean that a posterior mean is not allowed to fall below


def sibling_prior_table(
    siblings: Sequence[LatencyTable], identity: TableIdentity, *, cost: Callable[[Layer], LayerCost]
) -> LatencyTable:
    """A table without observations whose entries are "inferred" from the siblings', at their common level.

    ``cost`` is the space's: what the few-shot model learns from the siblings is stated in terms of work.
    A layer that only some siblings have is inferred from those. Siblings may differ from the table in target,
    runtime, threads, batch and precision; the closer they are, the better the prior.

    Raises:
        InvalidValueError: no sibling, or one of another space.
    """
    spaces = sorted({table.space for table in siblings})
    if spaces != [identity.space]:
        raise InvalidValueError(
            f"siblings must be tables of one space, {identity.space}, got {', '.join(spaces) or 'no table'}"
        )
    times = [_times(table, identity) for table in siblings]
    shared = set(times[0]).intersection(*times[1:])
    levels = [_level(known, shared or set(known)) for known in times]
    common = float(np.mean(levels))
    leveled = list(zip(times, levels, strict=True))
    entries = {
        key: _combined([(known[key], level) for known, level in leveled if key in known], common)
        for key in sorted(set().union(*times))
    }
    overheads = [(table.overhead.mean_ms, table.overhead.deviation_ms) for table in siblings]
    return LatencyTable(
        identity,
        entries,
        overhead=_combined(list(zip(overheads, levels, strict=True)), common),
        learned=learned_prior(
            [Layer.from_key(key) for key in entries],
            cost,
            [
                _sibling(table, known, np.exp(level - common), entries, identity)
                for table, (known, level) in zip(siblings, leveled, strict=True)
            ],
        ),
        conditions={"prior": "siblings", "siblings": [_named(table) for table in siblings]},
    )


def _sibling(
    table: LatencyTable,
    known: Mapping[str, tuple[float, float]],
    level: float,
    entries: Mapping[str, Entry],
    identity: TableIdentity,
) -> Sibling:
    """A layer that it lacks takes what it takes on the others, at its ``level`` relative to theirs."""
    times = [known[key][0] if key in known else level * entry.mean_ms for key, entry in entries.items()]
    terms_ms = np.append(times, max(float(table.posterior.mean[-1]), 0.0))
    columns = {key: column for column, key in enumerate(entries)}
    counts = np.zeros((len(table.observations), len(terms_ms)))
    counts[:, -1] = 1.0
    for row, observation in zip(counts, table.observations, strict=True):
        for key, count in observation.counts:
            row[columns[identity.key(Layer.from_key(key))]] += count
    latency_ms = np.array([observation.measured_ms for observation in table.observations])
    if not len(counts):  # nothing but layers was measured: a network that has each of them
        counts = np.ones((1, len(terms_ms)))
        latency_ms = counts @ terms_ms
    return Sibling(table.target, f"{table.target}/{table.runtime}/{table.precision}", terms_ms, counts, latency_ms)


def at_level_of(prior: LatencyTable, observations: Sequence[Observation]) -> LatencyTable:
    """``prior`` with all its times multiplied by what the observed networks take relative to its predictions.

    The median of the ratios is taken. Without observations it is ``prior`` itself.
    """
    if not observations:
        return prior
    predicted, _ = prior.predict_many([observation.layers for observation in observations])
    ratio = float(np.median([o.measured_ms for o in observations] / predicted))
    return replace(
        prior,
        hyperparameters=None,
        learned=prior.learned and replace(prior.learned, level_ms=ratio * prior.learned.level_ms),
        overhead=prior.overhead.scaled(ratio),
        entries={key: entry.scaled(ratio) for key, entry in prior.entries.items()},
        conditions={**prior.conditions, "level": ratio},
    )


def posterior_means_ms(table: LatencyTable) -> NDArray[np.float64]:
    """What each entry costs inside a network, given the observations: (num_entries,), all positive."""
    means = table.posterior.mean[:-1]
    return np.maximum(means, [_MIN_SHARE * entry.mean_ms for entry in table.entries.values()])


def _times(table: LatencyTable, identity: TableIdentity) -> dict[str, tuple[float, float]]:
    """(mean, deviation) in ms by the key that a layer has in tables of ``identity``."""
    means = posterior_means_ms(table)
    return {
        identity.key(Layer.from_key(key)): (float(mean), entry.deviation_ms * float(mean) / entry.mean_ms)
        for (key, entry), mean in zip(table.entries.items(), means, strict=True)
    }


def _level(times: Mapping[str, tuple[float, float]], keys: Collection[str]) -> float:
    """Logarithm of the geometric mean in ms."""
    return float(np.mean([np.log(times[key][0]) for key in keys]))


def _combined(times: Sequence[tuple[tuple[float, float], float]], common: float) -> Entry:
    """One entry from the siblings' (mean, deviation) in ms, each with its level, at the ``common`` level."""
    ratios = np.array([np.log(mean) - level for (mean, _), level in times])
    own = float(np.mean([(deviation / mean) ** 2 for (mean, deviation), _ in times]))
    squares = float(np.square(ratios - ratios.mean()).sum())
    spread = (_ASSUMED_WEIGHT * ASSUMED_SPREAD**2 + squares) / (_ASSUMED_WEIGHT + len(ratios) - 1)
    mean_ms = float(np.exp(common + ratios.mean()))
    return Entry(mean_ms, mean_ms * float(np.sqrt(spread + own)), "inferred")


def _named(table: LatencyTable) -> dict[str, object]:
    known = {"target": table.target, "runtime": table.runtime, "origin": table.origin}
    return known | {name: table.conditions.get(name) for name in ("fingerprint", "runtime_version", "date")}
