"""What a run was asked to do; stored in its folder, so that ``--resume`` needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from hwautoml.core.objective import Limit
from hwautoml.errors import InvalidValueError, RunFolderError, UnknownNameError
from hwautoml.objectives.base import Definition
from hwautoml.pipeline.runs.judging import LATENCY, definitions_of

MIN_BUDGET_SEC = 30.0
PRECISIONS = ("auto", "fp32", "int8")


@dataclass(frozen=True)
class RunSettings:
    """``None`` means: decided from the data, and written down once decided.

    ``objectives`` are names of those beyond accuracy and latency, ``limits`` texts such as ``parameters<=20000``.
    ``fit`` to ``label_column`` say how the images are read: see ``load_dataset``.
    """

    source: str
    target: str
    latency_ms: float
    budget_sec: float | None = None
    image_size: int | None = None
    channels: int | None = None
    runtime: str = "auto"
    searcher: str = "surrogate"
    seed: int = 0
    precision: str = "auto"
    task: str = "classification"
    space: str = "mobile"
    objectives: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    fit: str = "auto"
    label_pattern: str | None = None
    group: str | None = None
    path_column: str | None = None
    label_column: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.latency_ms < float("inf"):
            raise InvalidValueError(f"latency limit must be a positive number of ms, got {self.latency_ms}")
        if self.budget_sec is not None and not MIN_BUDGET_SEC <= self.budget_sec < float("inf"):
            raise InvalidValueError(
                f"training, exporting and measuring take {MIN_BUDGET_SEC:g} s or more, got {self.budget_sec:g} s",
                fix=f"--budget {MIN_BUDGET_SEC:g}s or more",
            )
        if self.precision not in PRECISIONS:
            raise UnknownNameError("precision", self.precision, PRECISIONS)
        if not 0 <= self.seed < 2**31:
            raise InvalidValueError(f"seed must be between 0 and 2^31 - 1, got {self.seed}")
        for definition in self.definitions:
            objective = definition.objective
            if objective.limit is not None and objective.source != "known" and objective.name != LATENCY:
                raise InvalidValueError(
                    f"a run keeps limits of {LATENCY} and of what is known before training, and {objective.name} is "
                    f"{objective.source}",
                    fix=f"run without it, then: hwautoml search --run RUN --limit "
                    f"'{objective.limit_at(objective.limit)}'",
                )

    @property
    def definitions(self) -> tuple[Definition, ...]:
        """What networks are judged by. Raises InvalidValueError: see ``definitions_of``."""
        return definitions_of(self.latency_ms, self.objectives, [Limit.parse(text) for text in self.limits])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunSettings:
        unknown = set(data) - {field.name for field in fields(cls)}
        if unknown:
            raise RunFolderError(
                f"the run was made by another version: it has settings {sorted(unknown)}",
                fix="go on with that version, or start anew: hwautoml run DATA --out FOLDER --overwrite",
            )
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in data.items()}
        return cls(**values)


def require_same(stored: RunSettings, given: Mapping[str, Any]) -> None:
    """A resumed run does what it was started to do.

    Raises:
        RunFolderError: an option given with ``--resume`` differs from the stored one.
    """
    changed = {
        name: (getattr(stored, name), value)
        for name, value in given.items()
        if value is not None and value != getattr(stored, name)
    }
    if changed:
        text = "; ".join(f"{name} was {old!r}, now {new!r}" for name, (old, new) in changed.items())
        raise RunFolderError(
            f"the run to resume was started with other settings: {text}",
            fix="leave them out, or use another --out; for another limit or target of a finished run: hwautoml search",
        )
