"""What each stage of a run leaves in the journal, so that a resumed run goes on where it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

from hwautoml.core import json_form
from hwautoml.core.measurement import Measurement


class Outcome(Protocol):
    """A frozen dataclass; ``stage`` is the name under which it is kept."""

    stage: ClassVar[str]

    def to_json(self) -> dict[str, Any]: ...

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Raises InvalidValueError, naming the field, where the data is none."""
        ...


class _Json:
    """The JSON form of an outcome whose keys are its fields."""

    stage: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        return json_form.to_json(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return json_form.from_json(cls, data, f"journal, stage {cls.stage!r}")


@dataclass(frozen=True)
class Loaded(_Json):
    stage: ClassVar[str] = "data"
    counts: Mapping[str, int]
    skipped: int


@dataclass(frozen=True)
class Profiled(_Json):
    """Of the first table."""

    stage: ClassVar[str] = "profile"
    runtime: str
    origin: str
    num_entries: int


@dataclass(frozen=True)
class Trained(_Json):
    """The supernet; ``epochs`` says how far its scores can be trusted."""

    stage: ClassVar[str] = "train"
    images: float = 0
    steps: int = 0
    epochs: float = 0.0


@dataclass(frozen=True)
class Searched(_Json):
    stage: ClassVar[str] = "search"
    num_evaluations: int


@dataclass(frozen=True)
class Specialised(_Json):
    """Ids of architectures; the leader was trained longest."""

    stage: ClassVar[str] = "specialise"
    finalists: tuple[str, ...]
    entrants: tuple[str, ...] = ()
    leader: str = ""


@dataclass(frozen=True)
class Exported(_Json):
    stage: ClassVar[str] = "export"


@dataclass(frozen=True)
class CompiledNetwork:
    """As of ``compilers.CompiledModel``."""

    functions: int
    tuned: int
    fallbacks: tuple[str, ...]
    compile_sec: float
    tune_sec: float


@dataclass(frozen=True)
class Compiled:
    """By architecture: what was compiled, and why not."""

    stage: ClassVar[str] = "compile"
    networks: Mapping[str, CompiledNetwork] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"errors": dict(self.errors), **{key: json_form.to_json(n) for key, n in self.networks.items()}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Compiled:
        where = f"journal, stage {cls.stage!r}"
        by_id = {key: value for key, value in data.items() if key not in ("errors", "seconds")}
        networks = {key: json_form.from_json(CompiledNetwork, value, where) for key, value in by_id.items()}
        return cls(networks, data.get("errors", {}))


@dataclass(frozen=True)
class Measured(_Json):
    """``failures``: reasons, by architecture and runtime."""

    stage: ClassVar[str] = "measure"
    failures: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class QuantizedNetwork:
    """One network in int8, and beside it in fp32: measurements by runtime, from the same rounds.

    Accuracies are of the same ``num_images`` validation images; of ``num_layers`` the
    ``fp32_layers`` stayed in float32.
    """

    accuracy: float
    base_accuracy: float
    num_images: int
    fp32_layers: tuple[str, ...]
    num_layers: int
    tvm_error: str | None
    fp32: Mapping[str, Measurement]
    int8: Mapping[str, Measurement]


@dataclass(frozen=True)
class Quantized(_Json):
    """By architecture: its int8 form, and why there is none."""

    stage: ClassVar[str] = "quantize"
    forms: Mapping[str, QuantizedNetwork] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FileParity:
    """Of one file with the trained network, over ``images`` test images."""

    max_abs: float
    top1_agreement: float
    images: int


@dataclass(frozen=True)
class Checked:
    """Of the file that ships: the task's ``outcome`` on the test split, as its JSON, and what its samples gave.

    ``samples`` are (index in the test split, the file's outputs); ``parity`` is by runtime, of the files in fp32.
    """

    stage: ClassVar[str] = "check"
    accuracy_test: float
    outcome: Mapping[str, Any]
    samples: tuple[tuple[int, tuple[float, ...]], ...]
    parity: Mapping[str, FileParity]
    int8: Mapping[str, Mapping[str, float]] | None = None

    def to_json(self) -> dict[str, Any]:
        """Parities lie beside the rest, under their runtimes, as in journals of all versions."""
        data = json_form.to_json(self)
        return data.pop("parity") | {name: value for name, value in data.items() if value is not None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Checked:
        if "confusion" in data:  # before there were tasks
            data = {**data, "outcome": {"confusion": data["confusion"]}}
        own = ("accuracy_test", "outcome", "confusion", "samples", "int8", "seconds")
        parity = {name: value for name, value in data.items() if name not in own}
        return json_form.from_json(cls, {**data, "parity": parity}, f"journal, stage {cls.stage!r}")


@dataclass(frozen=True)
class Shipped(_Json):
    stage: ClassVar[str] = "ship"


IN_ORDER: tuple[type[Outcome], ...] = (
    Loaded,
    Profiled,
    Trained,
    Searched,
    Specialised,
    Exported,
    Compiled,
    Measured,
    Quantized,
    Checked,
    Shipped,
)
