"""What latency tables hold and in what two of them differ, as commands tell it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwautoml.core import json_form
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.observation import EntryOrigin
from hwautoml.core.table_identity import TableIdentity


@dataclass(frozen=True)
class TableFacts:
    """What a table is of and made from; ``origin`` is "estimated" if nothing was measured on the target.

    ``num_measured``, ``num_inferred`` and ``num_estimated`` count layers, ``num_networks`` whole networks that were
    measured. ``noise_floor`` is the standard deviation of a sample, relative; None where it is not known.
    """

    path: Path
    identity: TableIdentity
    runtime_version: str | None
    origin: str
    num_measured: int
    num_inferred: int
    num_estimated: int
    num_networks: int
    overhead_ms: float
    holdout: Any
    noise_floor: Any
    conditions: Mapping[str, Any]

    @classmethod
    def of(cls, table: LatencyTable, path: Path) -> TableFacts:
        origins = Counter(entry.origin for entry in table.entries.values())
        return cls(
            path,
            table.identity,
            table.runtime_version,
            table.origin,
            num_measured=origins["measured"],
            num_inferred=origins["inferred"],
            num_estimated=origins["estimated"],
            num_networks=len(table.observations),
            overhead_ms=float(table.posterior.mean[-1]),
            holdout=table.conditions.get("holdout"),
            noise_floor=table.conditions.get("noise_floor_relative"),
            conditions=dict(table.conditions),
        )

    def to_json(self) -> dict[str, Any]:
        data = json_form.to_json(self)
        return {"path": data.pop("path"), **data.pop("identity"), **data}


@dataclass(frozen=True)
class LayerTime:
    """Milliseconds inside a network, and the mean share of a random network's predicted time."""

    key: str
    ms: float
    deviation_ms: float
    origin: EntryOrigin
    share: float


@dataclass(frozen=True)
class FittedNetwork:
    """A measured network as the table explains it; the table has learnt from it, so it is no check."""

    id: str
    measured_ms: float
    fitted_ms: float
    deviation_ms: float


@dataclass(frozen=True)
class TableInspection:
    """``most_ms`` lists layers by their time, ``most_share`` by their part in the time of ``shares_over``."""

    facts: TableFacts
    most_ms: tuple[LayerTime, ...]
    most_share: tuple[LayerTime, ...]
    shares_over: str
    networks: tuple[FittedNetwork, ...]
    picture: Path | None = None

    def to_json(self) -> dict[str, Any]:
        data = json_form.to_json(self)
        return {**self.facts.to_json(), **_without(data, "facts", *(["picture"] if self.picture is None else []))}


@dataclass(frozen=True)
class LayerRatio:
    """One layer in two tables; ``ratio_at_level`` is the second over the first once their levels agree."""

    key: str
    first_ms: float
    second_ms: float
    first_origin: EntryOrigin
    second_origin: EntryOrigin
    ratio_at_level: float


@dataclass(frozen=True)
class TableComparison:
    """Two tables of one space: in what they are of (``differences``), in their layers, in what they predict.

    ``level_ratio`` is the second over the first, the median over ``num_networks`` random networks;
    ``median_difference_at_level`` what they differ by at the median once levels agree, and ``share_apart`` the share of
    networks on which they contradict each other beyond both 95 % intervals. ``layers`` differ most.
    """

    first: TableFacts
    second: TableFacts
    differences: tuple[str, ...]
    level_ratio: float
    spearman: float
    correlation: float
    median_difference_at_level: float
    share_apart: float
    num_networks: int
    num_layers_in_both: int
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    layers: tuple[LayerRatio, ...]
    picture: Path | None = None

    def to_json(self) -> dict[str, Any]:
        data = json_form.to_json(self) | {"first": self.first.to_json(), "second": self.second.to_json()}
        return _without(data, *(["picture"] if self.picture is None else []))


def _without(data: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in names}
