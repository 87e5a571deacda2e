"""What a latency table is valid for, apart from the machine and the runtime's version."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields

from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.target import PRECISIONS
from hwautoml.errors import InvalidValueError


@dataclass(frozen=True)
class TableIdentity:
    """``space`` is the family (``mobile/v1/32x32x3``): a table leaves the number of classes open.

    Raises:
        InvalidValueError: fewer than one thread or image per inference, or an unknown precision.
    """

    target: str
    runtime: str
    num_threads: int
    batch: int
    precision: str
    space: str

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be at least 1, got {getattr(self, name)}"
            for name in ("num_threads", "batch")
            if getattr(self, name) < 1
        ]
        if self.precision not in PRECISIONS:
            problems.append(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if problems:
            raise InvalidValueError("latency table: " + "; ".join(problems))

    @classmethod
    def of(cls, table: LatencyTable) -> TableIdentity:
        return cls(**{field.name: getattr(table, field.name) for field in fields(cls)})

    def differences(self, wanted: TableIdentity, *, ignoring: Collection[str] = ()) -> tuple[str, ...]:
        """One text per field in which ``self`` is not what is wanted, such as ``num_threads is 2, needed 1``."""
        return tuple(
            f"{field.name} is {getattr(self, field.name)!r}, needed {getattr(wanted, field.name)!r}"
            for field in fields(self)
            if field.name not in ignoring and getattr(self, field.name) != getattr(wanted, field.name)
        )

    @property
    def command(self) -> str:
        """What makes a table of this identity."""
        name, _, size = self.space.partition("/")[0], *self.space.rpartition("/")[1:]
        side, _, channels = size.partition("x")[0], *size.rpartition("x")[1:]
        flags = {
            "--target": self.target,
            "--space": name,
            "--image-size": side,
            "--channels": "grey" if channels == "1" else "",
            "--runtime": self.runtime,
            "--threads": str(self.num_threads),
            "--batch": str(self.batch) if self.batch != 1 else "",
            "--precision": self.precision if self.precision != "fp32" else "",
        }
        return " ".join(["hwautoml profile", *(f"{flag} {value}" for flag, value in flags.items() if value)])
