"""What is optimised, what limits it, and a candidate's figures with their origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from hwautoml.core.space import Architecture
from hwautoml.errors import InvalidValueError

Origin = Literal["measured", "predicted", "estimated"]
Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True)
class Objective:
    """``limit`` is inclusive: an upper bound when minimising, a lower bound when maximising."""

    name: str
    unit: str
    direction: Direction
    limit: float | None = None

    def __post_init__(self) -> None:
        if self.direction not in ("minimize", "maximize"):
            raise InvalidValueError(f"objective {self.name!r}: direction must be minimize or maximize")

    def is_met(self, value: float) -> bool:
        if self.limit is None:
            return True
        return value <= self.limit if self.direction == "minimize" else value >= self.limit


@dataclass(frozen=True)
class Candidate:
    """An architecture with its objective values; ``origin`` names where each value comes from."""

    architecture: Architecture
    values: Mapping[str, float]
    origin: Mapping[str, Origin] = field(default_factory=dict)
    deviation: Mapping[str, float] = field(default_factory=dict)
