"""What latency tables are made of: times of layers and of whole networks, measured or not, and what they predict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from hwautoml.core.layer import Layer
from hwautoml.errors import InvalidValueError

EntryOrigin = Literal["measured", "inferred", "estimated"]
ENTRY_ORIGINS = ("measured", "inferred", "estimated")


@dataclass(frozen=True)
class Estimate:
    """A predicted latency. ``std_ms`` includes what repeating the measurement would show.

    ``unmeasured`` names the layers that were measured neither alone nor in any network: their entries are
    inferred or estimated, and ``std_ms`` is wider for it.
    """

    mean_ms: float
    std_ms: float
    unmeasured: tuple[str, ...] = ()

    @property
    def interval_ms(self) -> tuple[float, float]:
        """95 %; the lower bound stays positive."""
        return max(self.mean_ms - 1.96 * self.std_ms, 1e-3 * self.mean_ms), self.mean_ms + 1.96 * self.std_ms


@dataclass(frozen=True)
class Entry:
    """Time of one layer (or of the overhead) and its standard deviation.

    Origins: "measured" by a micro-benchmark on this target, "inferred" from measured entries (by regression
    from this target's, or from other devices'), "estimated" from the datasheet. ``num_weights`` is how many weights of
    the layer every run reads anew; 0 where the runtime packs them when it opens a model.
    """

    mean_ms: float
    deviation_ms: float
    origin: EntryOrigin = "measured"
    num_weights: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean_ms) and self.mean_ms > 0):
            raise InvalidValueError(f"an entry's mean_ms must be positive and finite, got {self.mean_ms!r}")
        if not (math.isfinite(self.deviation_ms) and self.deviation_ms >= 0):
            raise InvalidValueError(f"an entry's deviation_ms must be finite and >= 0, got {self.deviation_ms!r}")
        if self.origin not in ENTRY_ORIGINS:
            raise InvalidValueError(f"an entry's origin must be one of {ENTRY_ORIGINS}, got {self.origin!r}")
        if type(self.num_weights) is not int or self.num_weights < 0:
            raise InvalidValueError(f"an entry's num_weights must be a count, got {self.num_weights!r}")

    def scaled(self, factor: float) -> Entry:
        return replace(self, mean_ms=factor * self.mean_ms, deviation_ms=factor * self.deviation_ms)

    def to_json(self) -> dict[str, object]:
        """``num_weights`` only where there are any."""
        data: dict[str, object] = {"mean_ms": self.mean_ms, "deviation_ms": self.deviation_ms, "origin": self.origin}
        return data | ({"num_weights": self.num_weights} if self.num_weights else {})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Entry:
        """Raises TypeError for a field that entries don't have, InvalidValueError for a wrong value."""
        return cls(**data)


@dataclass(frozen=True)
class Observation:
    """A whole network, measured: how often it contains each layer key, and its latency.

    ``session`` names the measuring call (its date, say): results of the same one share its level; "" is one of its own.
    """

    architecture_id: str
    counts: tuple[tuple[str, int], ...]
    measured_ms: float
    deviation_ms: float = 0.0
    session: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.measured_ms) and self.measured_ms > 0):
            raise InvalidValueError(f"measured_ms must be positive and finite, got {self.measured_ms!r}")
        if not (math.isfinite(self.deviation_ms) and self.deviation_ms >= 0):
            raise InvalidValueError(f"deviation_ms must be finite and >= 0, got {self.deviation_ms!r}")
        if any(not key or count < 1 for key, count in self.counts):
            raise InvalidValueError(f"counts need a layer key and a positive count each, got {self.counts!r}")

    @property
    def layers(self) -> list[Layer]:
        """Of the network, each as often as it is in it."""
        return [Layer.from_key(key) for key, count in self.counts for _ in range(count)]

    def scaled(self, factor: float) -> Observation:
        return replace(self, measured_ms=factor * self.measured_ms, deviation_ms=factor * self.deviation_ms)

    def to_json(self) -> dict[str, object]:
        return {
            "architecture_id": self.architecture_id,
            "counts": dict(self.counts),
            "measured_ms": self.measured_ms,
            "deviation_ms": self.deviation_ms,
            "session": self.session,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Observation:
        """Raises KeyError for a missing field, InvalidValueError or ValueError for a wrong one."""
        architecture_id, counts = data["architecture_id"], data["counts"]
        if not isinstance(architecture_id, str) or not isinstance(counts, Mapping):
            raise InvalidValueError(f"an observation needs an id and counts, got {architecture_id!r} and {counts!r}")
        measured_ms, deviation_ms = float(data["measured_ms"]), float(data["deviation_ms"])
        return cls(
            architecture_id, tuple(sorted(counts.items())), measured_ms, deviation_ms, str(data.get("session", ""))
        )
