"""What is optimised, and what limits it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from hwautoml.core import json_form
from hwautoml.errors import InvalidValueError

Direction = Literal["minimize", "maximize"]
Source = Literal["known", "scored", "measured"]
Relation = Literal["<=", ">="]

SHARE = "share"  # the unit of what lies within 0..1 and is shown as per cent

_NAME = re.compile(r"[A-Za-z][\w.:-]*")
_LIMIT = re.compile(r"\s*(?P<name>[^<>=\s]+)\s*(?P<relation><=|>=)\s*(?P<bound>\S+)\s*")


@dataclass(frozen=True)
class Limit:
    """``name`` is an objective's; ``bound`` is inclusive."""

    name: str
    relation: Relation
    bound: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.bound):
            raise InvalidValueError(f"limit of {self.name} must be a finite number, got {self.bound}")

    def __str__(self) -> str:
        return f"{self.name}{self.relation}{self.bound:.12g}"

    @classmethod
    def parse(cls, text: str) -> Limit:
        """``latency_ms<=5`` or ``accuracy>=0.9``; the inverse of ``str``.

        Raises:
            InvalidValueError: the text is no limit.
        """
        match = _LIMIT.fullmatch(text)
        try:
            if match is None:
                raise ValueError(text)
            return cls(match["name"], "<=" if match["relation"] == "<=" else ">=", float(match["bound"]))
        except ValueError as error:
            raise InvalidValueError(
                f"a limit is NAME<=VALUE or NAME>=VALUE, such as 'parameters<=20000', got {text!r}"
            ) from error


@dataclass(frozen=True)
class Objective:
    """``source`` says where its value comes from: ``known`` before training, from the architecture alone; ``scored`` on
    the outputs for validation images; ``measured`` on the target, and predicted until then.

    ``limit`` is inclusive: an upper bound when minimising, a lower bound when maximising.

    Raises:
        InvalidValueError: no name, an unknown direction or source, or a limit that is no finite number.
    """

    name: str
    unit: str
    direction: Direction
    source: Source
    limit: float | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidValueError(f"an objective's name is a word, such as 'parameters', got {self.name!r}")
        if self.direction not in ("minimize", "maximize"):
            raise InvalidValueError(f"objective {self.name!r}: direction must be minimize or maximize")
        if self.source not in ("known", "scored", "measured"):
            raise InvalidValueError(f"objective {self.name!r}: source must be known, scored or measured")
        if self.limit is not None and not math.isfinite(self.limit):
            raise InvalidValueError(f"objective {self.name!r}: the limit must be a finite number, got {self.limit}")

    @property
    def sign(self) -> float:
        """A value times this is to be minimised."""
        return 1.0 if self.direction == "minimize" else -1.0

    @property
    def minimised_limit(self) -> float:
        """What a value times ``sign`` must not exceed; infinite without a limit."""
        return math.inf if self.limit is None else self.sign * self.limit

    def is_met(self, value: float) -> bool:
        """NaN meets no limit."""
        return self.limit is None or self.sign * value <= self.minimised_limit

    def with_limit(self, limit: float | None) -> Objective:
        return replace(self, limit=limit)

    def limited(self, limit: Limit) -> Objective:
        """With that limit.

        Raises:
            InvalidValueError: a lower bound of what is minimised, or an upper one of what is maximised.
        """
        relation: Relation = "<=" if self.direction == "minimize" else ">="
        if limit.relation != relation:
            raise InvalidValueError(
                f"limit {limit}: {self.name} is {self.direction}d, so it is limited by {relation}",
                fix=f"{self.name}{relation}{limit.bound:g}",
            )
        return self.with_limit(limit.bound)

    def limit_at(self, bound: float) -> Limit:
        """The limit that would stand at ``bound``."""
        return Limit(self.name, "<=" if self.direction == "minimize" else ">=", bound)

    def text(self, value: float) -> str:
        """A value as people read it: ``0.31 ms``, ``93.2%``."""
        if self.unit == SHARE:
            return f"{value:.1%}"
        shown = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
        return f"{shown} {self.unit}".rstrip()

    def to_json(self) -> dict[str, Any]:
        return json_form.to_json(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Objective:
        """Raises InvalidValueError: a field is missing, or has a value that no objective has."""
        return json_form.from_json(cls, data, "objective")
