"""What a finished run says of itself: the object that ``run --json`` prints and ``result.json`` holds.

Every latency is in ms and says where it comes from; accuracies are fractions, 0..1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hwautoml.core import json_form
from hwautoml.core.form import Form
from hwautoml.core.measurement import LatencySummary
from hwautoml.core.space import Value

Interval = tuple[float, float]


@dataclass(frozen=True)
class ShippedArchitecture:
    """``space`` is the space's full name, ``values`` an option of each of its choices."""

    id: str
    space: str
    values: Mapping[str, Value]


@dataclass(frozen=True)
class AccuracyFigures:
    """``val`` chose the network; ``test`` was looked at once, through the file that ships."""

    val: float
    test: float


@dataclass(frozen=True)
class Prediction:
    """What a latency table said of a network in one form, before anything of it was measured."""

    runtime: str
    mean_ms: float
    interval_ms: Interval
    precision: str = "fp32"

    @property
    def form(self) -> Form:
        return Form(self.runtime, self.precision)


@dataclass(frozen=True)
class LatencyFigures:
    """``predicted_origin``: "predicted" by a measured table, "estimated" by a datasheet's."""

    limit: float
    predicted: float
    predicted_interval: Interval
    predicted_runtime: str
    predicted_precision: str
    predicted_origin: str
    measured_median: float
    measured_interval: Interval
    p95: float | None
    by_runtime: Mapping[str, LatencySummary]


@dataclass(frozen=True)
class PrecisionAccuracy:
    """Of both precisions on the same ``num_images`` validation images."""

    fp32: float
    int8: float
    num_images: int


@dataclass(frozen=True)
class Quantization:
    """Why the ``precision`` that ships was chosen; the figures are None where int8 was not tried.

    ``median_ms`` is by precision and runtime; ``fp32_layers`` stayed in float32.
    """

    precision: str
    tried: bool
    reason: str
    accuracy_val: PrecisionAccuracy | None = None
    loss_points: float | None = None
    max_loss_points: float | None = None
    fp32_layers: tuple[str, ...] | None = None
    median_ms: Mapping[str, Mapping[str, float]] | None = None
    tvm_error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Without the figures that there are not."""
        return {name: value for name, value in json_form.to_json(self).items() if value is not None}


@dataclass(frozen=True)
class ParityFigures:
    """Of the files with the trained network; ``int8`` by runtime, where int8 ships, and ``between_runtimes``."""

    onnx_max_abs: float | None
    tvm_max_abs: float | None
    top1_agreement: float
    num_images: int
    int8: Mapping[str, Mapping[str, float]] | None = None


@dataclass(frozen=True)
class TrainingFigures:
    seconds: float
    images: float
    epochs: float


@dataclass(frozen=True)
class DatasetFacts:
    """``counts``: images per split; ``skipped``: a few of the ``num_skipped`` unreadable files; ``labels``: of what."""

    name: str
    classes: tuple[str, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
    num_skipped: int = 0
    skipped: tuple[str, ...] = ()
    labels: str | None = None


@dataclass(frozen=True)
class TaskFacts:
    """What was predicted. ``metric`` is what results call accuracy, ``decision`` of what parity compares;
    ``metrics`` are all figures of the task by split, of the test images so far.
    """

    name: str = "classification"
    metric: str = "accuracy"
    decision: str = "class"
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class CandidateRow:
    """One architecture that the search scored; ``origin`` says where ``latency_ms`` comes from."""

    architecture_id: str
    values: Mapping[str, Value]
    accuracy_val: float
    latency_ms: float
    latency_std_ms: float
    origin: str
    on_front: bool
    chosen: bool


@dataclass(frozen=True)
class FinalistRow:
    """One that was trained, exported and measured, by the forms in which it was."""

    architecture_id: str
    accuracy_val: float
    accuracy_test: float | None
    predicted_ms: float
    predicted_interval: Interval
    predicted_form: str
    measured: Mapping[str, LatencySummary]
    meets_limit: bool
    chosen: bool


@dataclass(frozen=True)
class RunResult:
    """``seconds`` by stage and in ``total``; ``tvm`` is what its compiler said, by architecture."""

    architecture: ShippedArchitecture
    accuracy: AccuracyFigures
    latency_ms: LatencyFigures
    target: str
    runtime: str
    precision: str
    quantization: Quantization
    onnx: str
    bundle: str
    report: str
    parity: ParityFigures
    seconds: Mapping[str, float]
    training: Mapping[str, TrainingFigures]
    budget_sec: float
    dataset: DatasetFacts
    front: tuple[CandidateRow, ...]
    finalists: tuple[FinalistRow, ...]
    tvm: Mapping[str, Any]
    conditions: Mapping[str, Any]
    seed: int
    task: TaskFacts = field(default_factory=TaskFacts)  # results of before there were tasks have none

    def to_json(self) -> dict[str, Any]:
        return {**json_form.to_json(self), "quantization": self.quantization.to_json()}

    @classmethod
    def from_json(cls, data: object, where: str = "result.json") -> RunResult:
        """Raises InvalidValueError, naming the field, where the data is not a run's result."""
        return json_form.from_json(cls, data, where)
