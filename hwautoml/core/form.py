"""In what form a network runs: on which runtime, in which precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hwautoml.core.target import PRECISIONS
from hwautoml.errors import InvalidValueError


@dataclass(frozen=True, order=True)
class Form:
    """``name`` is how tables, files and results call it: ``tvm`` in fp32, else ``tvm-int8``.

    Raises:
        InvalidValueError: no runtime, or an unknown precision.
    """

    runtime: str
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if not self.runtime or self.precision not in PRECISIONS:
            raise InvalidValueError(
                f"a form is a runtime and one of {', '.join(PRECISIONS)}, got {self.runtime!r} and {self.precision!r}"
            )

    @property
    def name(self) -> str:
        return self.runtime if self.precision == "fp32" else f"{self.runtime}-{self.precision}"

    def __str__(self) -> str:
        return self.name

    @classmethod
    def of_name(cls, name: str) -> Form:
        """The inverse of ``name``; runtimes may have dashes of their own (``torch-inductor``)."""
        runtime, _, precision = name.rpartition("-")
        return cls(runtime, precision) if runtime and precision in PRECISIONS else cls(name)

    def to_json(self) -> dict[str, str]:
        return {"runtime": self.runtime, "precision": self.precision}

    @classmethod
    def from_json(cls, data: Mapping[str, str]) -> Form:
        return cls(data["runtime"], data.get("precision", "fp32"))
