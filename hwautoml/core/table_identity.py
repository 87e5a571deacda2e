"""What a latency table is valid for, apart from the machine and the runtime's version."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from hwautoml.core.form import Form
from hwautoml.core.json_form import from_json
from hwautoml.core.layer import Layer
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

    @property
    def form(self) -> Form:
        return Form(self.runtime, self.precision)

    def key(self, layer: Layer) -> str:
        """The layer's key at this precision and batch."""
        if layer.precision == self.precision and layer.batch == self.batch:
            return layer.key
        return replace(layer, precision=self.precision, batch=self.batch).key

    def differing(self, other: TableIdentity, *, ignoring: Collection[str] = ()) -> dict[str, tuple[Any, Any]]:
        """Both values of each field in which the two differ."""
        return {
            field.name: (getattr(self, field.name), getattr(other, field.name))
            for field in fields(self)
            if field.name not in ignoring and getattr(self, field.name) != getattr(other, field.name)
        }

    def differences(self, wanted: TableIdentity, *, ignoring: Collection[str] = ()) -> tuple[str, ...]:
        """One text per field in which ``self`` is not what is wanted, such as ``num_threads is 2, needed 1``."""
        differing = self.differing(wanted, ignoring=ignoring).items()
        return tuple(f"{name} is {mine!r}, needed {needed!r}" for name, (mine, needed) in differing)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TableIdentity:
        """From any object that has its fields; others in it are left alone.

        Raises:
            InvalidValueError: a field is missing, has another type, or a value that no identity has.
        """
        return from_json(cls, data, "identity")
