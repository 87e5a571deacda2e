"""What a report shows, as frozen dataclasses; ``ReportData.from_dict`` reads plain JSON-able data.

Fractions (accuracies) are 0..1, times end in ``_ms``. A figure that is not known, or not
finite, is None and left out of the page; so are whole parts that a run has not reached yet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec

from hwautoml.core.layer import Layer
from hwautoml.core.task import Figure
from hwautoml.errors import InvalidValueError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ORIGINS = ("measured", "predicted", "estimated")
Interval = tuple[float, float]
Count = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
_Counts = tuple[tuple[Count, ...], ...]
_SHORTEST_MS, _LONGEST_MS = 1e-9, 1e12
T = TypeVar("T", bound="DataclassInstance")


@dataclass(frozen=True)
class DatasetFacts:
    """``counts``: images per split; ``labels``: of what kind.

    ``skipped``: a few of the ``num_skipped`` unreadable files.
    """

    name: str
    classes: tuple[str, ...]
    counts: Mapping[str, Count] = field(default_factory=dict)
    labels: str | None = None
    num_skipped: Count = 0
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Latency:
    """A measured median with its 95 % interval."""

    median_ms: float
    interval_ms: Interval
    p95_ms: float | None = None


@dataclass(frozen=True)
class CandidateRow:
    """One architecture of the search. ``origin`` says where ``latency_ms`` comes from."""

    architecture_id: str
    accuracy_val: float | None
    latency_ms: float | None
    values: Mapping[str, Any] = field(default_factory=dict)
    latency_std_ms: float | None = None
    origin: str = "predicted"
    on_front: bool = False
    chosen: bool = False


@dataclass(frozen=True)
class SpecialisedRow:
    """A candidate that was cut out, fine-tuned, exported and measured, by form: a runtime, or ``tvm-int8``.

    ``predicted_form``: the one that ``predicted_ms`` is about.
    """

    architecture_id: str
    accuracy_val: float | None
    predicted_ms: float | None
    measured: Mapping[str, Latency]
    predicted_interval: Interval | None = None
    predicted_form: str | None = None
    accuracy_test: float | None = None
    meets_limit: bool | None = None
    chosen: bool = False

    @property
    def fastest(self) -> tuple[str, Latency] | None:
        return min(self.measured.items(), key=lambda item: item[1].median_ms, default=None)


@dataclass(frozen=True)
class Block:
    """One layer of the winner; ``latency_ms`` is its share by the latency table."""

    layer: Layer
    latency_ms: float | None = None


@dataclass(frozen=True)
class Winner:
    """What was shipped. ``costs``: analytic figures by name, such as ``parameters``, ``macs``.

    ``quantization`` is a sentence: why this ``precision``.
    """

    architecture_id: str
    accuracy_val: float | None
    accuracy_test: float | None
    runtime: str
    latency: Latency
    accuracy_test_interval: Interval | None = None
    meets_limit: bool | None = None
    precision: str = "fp32"
    quantization: str | None = None
    bundle: str | None = None
    blocks: tuple[Block, ...] = ()
    costs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportData:
    """``figures``: what the task shows of the test split. Accuracies are values of its primary ``metric``, 1 at best;
    ``decision`` is what it predicts, in a word.

    ``predicted_runtime``: the ``predicted_form`` of rows that don't say (of runs before 0.1).
    """

    title: str
    target: str
    space: str
    dataset: DatasetFacts
    candidates: tuple[CandidateRow, ...] = ()
    specialised: tuple[SpecialisedRow, ...] = ()
    winner: Winner | None = None
    limit_ms: float | None = None
    predicted_runtime: str | None = None
    figures: tuple[Figure, ...] = ()
    metric: str = "accuracy"
    decision: str = "class"
    seconds: Mapping[str, float] = field(default_factory=dict)
    budget_seconds: float | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ReportData:
        """Names as in the dataclasses; ``winner.layers`` holds ``{"key": ..., "latency_ms": ...}``.

        Raises:
            InvalidValueError: a field is missing, unknown or of the wrong form.
        """
        data = _object(data, "report")
        seconds, figures = _object(data.get("seconds") or {}, "seconds"), _list(data.get("figures") or (), "figures")
        candidates = _list(data.get("candidates") or (), "candidates")
        specialised = _list(data.get("specialised") or (), "specialised")
        return _build(
            cls,
            data,
            "report",
            dataset=_dataset(_object(data.get("dataset") or {}, "dataset")),
            candidates=tuple(
                _candidate(_object(r, f"candidates[{i}]"), f"candidates[{i}]") for i, r in enumerate(candidates)
            ),
            specialised=tuple(
                _special(_object(r, f"specialised[{i}]"), f"specialised[{i}]") for i, r in enumerate(specialised)
            ),
            winner=None if data.get("winner") is None else _winner(_object(data["winner"], "winner")),
            limit_ms=_positive(data.get("limit_ms"), "limit_ms"),
            figures=tuple(_figure(_object(row, f"figures[{i}]"), f"figures[{i}]") for i, row in enumerate(figures)),
            seconds={name: number for name, value in seconds.items() if (number := finite(value)) is not None},
            budget_seconds=finite(data.get("budget_seconds")),
        )


def finite(value: Any) -> float | None:
    """None for what is missing or no finite number: JSON has neither NaN nor infinity."""
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidValueError(f"a report needs a number or nothing here, got {value!r:.60}") from error
    return number if math.isfinite(number) else None


def _positive(value: Any, where: str) -> float | None:
    """As ``finite``, of a time; what is divided by it stays a number."""
    number = finite(value)
    if number is not None and not _SHORTEST_MS <= number <= _LONGEST_MS:
        raise InvalidValueError(f"{where} must be a time in ms, got {value!r:.60}")
    return number


def _share(value: Any, where: str) -> float | None:
    """As ``finite``, of an accuracy."""
    number = finite(value)
    if number is not None and not 0 <= number <= 1:
        raise InvalidValueError(f"{where} must be from 0 to 1, got {value!r:.60}")
    return number


def _build(kind: type[T], data: Mapping[str, Any], where: str, **converted: Any) -> T:
    """An instance from ``data``, with ``converted`` in place of the fields of that name."""
    if not isinstance(data, Mapping):
        raise InvalidValueError(f"{where} must be a mapping, got {data!r}")
    known = {f.name: f for f in fields(kind)}
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise InvalidValueError(f"{where} has unknown fields {unknown}; known: {', '.join(known)}")
    needed = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in needed if name not in data]
    if missing:
        raise InvalidValueError(f"{where} lacks {missing}")
    given = {name: value for name, value in data.items() if value is not None}
    return _converted(dict.fromkeys(needed) | given | converted, kind, where)


def _converted(data: object, kind: Any, where: str) -> Any:
    """``data`` with the types that ``kind`` asks for; what is of such a type already stays."""
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise InvalidValueError(f"{where}: {error}") from error


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidValueError(f"{where} must be a mapping, got {value!r:.60}")
    return value


def _list(value: Any, where: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise InvalidValueError(f"{where} must be a list, got {value!r:.60}")
    return value


def _dataset(data: Mapping[str, Any]) -> DatasetFacts:
    classes = tuple(str(name) for name in _list(data.get("classes") or (), "dataset.classes"))
    skipped = tuple(str(name) for name in _list(data.get("skipped") or (), "dataset.skipped"))
    return _build(DatasetFacts, data, "dataset", classes=classes, skipped=skipped)


def _candidate(data: Mapping[str, Any], where: str) -> CandidateRow:
    numbers = {name: finite(data.get(name)) for name in ("latency_ms", "latency_std_ms")}
    numbers["accuracy_val"] = _share(data.get("accuracy_val"), f"{where}.accuracy_val")
    row = _build(CandidateRow, data, where, **numbers)
    if row.origin not in ORIGINS:
        raise InvalidValueError(f"{where}.origin must be one of {ORIGINS}, got {row.origin!r}")
    return row


def _special(data: Mapping[str, Any], where: str) -> SpecialisedRow:
    numbers = {name: _share(data.get(name), f"{where}.{name}") for name in ("accuracy_val", "accuracy_test")}
    numbers["predicted_ms"] = _positive(data.get("predicted_ms"), f"{where}.predicted_ms")
    measured = {
        str(runtime): _latency(value, f"{where}.measured.{runtime}")
        for runtime, value in _object(data.get("measured") or {}, f"{where}.measured").items()
    }
    interval = _interval(data.get("predicted_interval"), f"{where}.predicted_interval")
    return _build(SpecialisedRow, data, where, measured=measured, predicted_interval=interval, **numbers)


def _figure(data: Mapping[str, Any], where: str) -> Figure:
    try:
        return Figure.from_json(data)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidValueError(f"{where} is no figure of a task: {error!r}") from error


def _latency(value: Any, where: str) -> Latency:
    data = _object(value, where)
    median = _positive(data.get("median_ms"), f"{where}.median_ms")
    interval = _interval(data.get("interval_ms"), f"{where}.interval_ms")
    if median is None or interval is None:
        raise InvalidValueError(f"{where} needs a finite median_ms and its interval_ms, got {data!r}")
    return _build(Latency, data, where, median_ms=median, interval_ms=interval, p95_ms=finite(data.get("p95_ms")))


def _interval(value: Sequence[Any] | None, where: str) -> Interval | None:
    if value is None:
        return None
    if len(_list(value, where)) != 2:
        raise InvalidValueError(f"{where} must be [low, high], got {value!r}")
    low, high = finite(value[0]), finite(value[1])
    return None if low is None or high is None else (low, high)


def _winner(data: Mapping[str, Any]) -> Winner:
    layers = [_object(row, "winner.layers") for row in _list(data.get("layers") or (), "winner.layers")]
    blocks = tuple(Block(Layer.from_key(str(row.get("key"))), finite(row.get("latency_ms"))) for row in layers)
    rest = {name: value for name, value in data.items() if name != "layers"}
    numbers = {name: _share(data.get(name), f"winner.{name}") for name in ("accuracy_val", "accuracy_test")}
    costs = {
        name: c for name, value in _object(data.get("costs") or {}, "costs").items() if (c := finite(value)) is not None
    }
    latency = _latency(data.get("latency") or {}, "winner.latency")
    interval = _interval(data.get("accuracy_test_interval"), "winner.accuracy_test_interval")
    return _build(
        Winner, rest, "winner", blocks=blocks, latency=latency, costs=costs, accuracy_test_interval=interval, **numbers
    )
