"""Two latency tables of the same kind as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.observation import Entry, Observation

_RANKS = {"estimated": 0, "inferred": 1, "measured": 2}
_MIN_RELATIVE_DEVIATION = 1e-3  # a measurement that states less states too little


def differences_in_kind(first: LatencyTable, second: LatencyTable) -> tuple[str, ...]:
    """In what the tables are of, the runtime's version and the machine included: one text each."""
    differing = first.identity.differing(second.identity)
    for name in ("runtime_version", "fingerprint"):
        values = first.conditions.get(name), second.conditions.get(name)
        if values[0] != values[1]:
            differing[name] = values
    return tuple(f"{name} is {one!r} and {other!r}" for name, (one, other) in differing.items())


def merged_table(tables: tuple[LatencyTable, LatencyTable], names: tuple[str, str]) -> LatencyTable:
    """Networks joined, layers averaged by how sure each is; ``names`` are what the conditions call the two.

    Both are brought to the speed of the machine half-way between theirs, as the reference network shows it.
    Of a layer that one has measured and the other has not, the measurement is taken. What both have in common
    (one was made from the other) counts once.
    """
    speeds = [table.conditions.get("reference_median_ms") for table in tables]
    known = [speed for speed in speeds if isinstance(speed, float)]
    common = float(np.sqrt(np.prod(known))) if len(known) == 2 else 1.0
    factors = [common / speed for speed in known] if len(known) == 2 else [1.0, 1.0]
    keys = sorted(tables[0].entries.keys() | tables[1].entries.keys())
    entries = {key: _joined([t.entries.get(key) for t in tables], factors) for key in keys}
    observations: dict[Observation, float] = {}
    for table, factor in zip(tables, factors, strict=True):
        observations |= {o: factor for o in table.observations if o not in observations}
    newest = max(tables, key=lambda table: str(table.conditions.get("date", "")))
    merged = replace(
        newest,
        entries=entries,
        overhead=_joined([table.overhead for table in tables], factors),
        observations=(),
        hyperparameters=None,
        conditions={
            **newest.conditions,
            "holdout": None,
            "reference_median_ms": common if len(known) == 2 else None,
            "merged": [{"file": name, **_summary(table)} for name, table in zip(names, tables, strict=True)],
        },
    )
    return merged.with_observations([o.scaled(factor) for o, factor in observations.items()])


def _joined(entries: Sequence[Entry | None], factors: Sequence[float]) -> Entry:
    """Weighted by 1 / deviation^2 where both are of one origin; else the better origin's."""
    present = [(entry, factor) for entry, factor in zip(entries, factors, strict=True) if entry is not None]
    best = max(_RANKS[entry.origin] for entry, _ in present)
    chosen = list({entry: factor for entry, factor in present if _RANKS[entry.origin] == best}.items())
    means = np.array([factor * entry.mean_ms for entry, factor in chosen])
    stated = np.array([factor * entry.deviation_ms for entry, factor in chosen])
    weights = 1 / np.maximum(stated, _MIN_RELATIVE_DEVIATION * means) ** 2
    mean = float(weights @ means / weights.sum())
    deviation = float(weights.sum() ** -0.5) if len(chosen) > 1 else float(stated[0])
    return replace(chosen[0][0], mean_ms=mean, deviation_ms=deviation)


def _summary(table: LatencyTable) -> Mapping[str, object]:
    names = ("date", "noise_floor_relative", "reference_median_ms", "holdout")
    return {"num_networks": len(table.observations), **{name: table.conditions.get(name) for name in names}}
