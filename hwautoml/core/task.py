"""What is predicted: the contract between labels, training, what is exported and what people are told.

A task is one class. The package knows one, single-label classification (``hwautoml/tasks/classification.py``);
``docs/extending/task.md`` says step by step how another package adds one, and ``hwautoml.testing.tasks`` holds the
tests that it has to pass.

The life of a task in a run:

1. ``from_labels`` makes it from the labels of a data set, before the images are split by ``strata``.
2. ``loss`` and ``distillation_loss`` train networks with ``num_outputs`` raw outputs.
3. ``activate`` ends the exported graph: from here on a network's *outputs* are what it gives.
4. ``outcome`` is what is kept of a network's outputs on a part of the images. Outcomes of parts add up, and are kept
   in the journal, so that every figure can be computed later without the network.
5. ``metrics`` are the figures; the first of ``known_metrics`` is what networks are ranked by.
6. ``decide`` is the rule by which an output becomes an answer; an exported file must give the same answers
   (``core/parity.py``).
7. ``answer`` tells the bundle's runners, which have no Python of this task, what to print; ``card`` and ``figures``
   are what its texts and the report show.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.objective import Direction
from hwautoml.errors import InvalidValueError

if TYPE_CHECKING:
    import torch

Labels = NDArray[Any]
"""(num_images, ...): one row per image, in whatever form the task trains with."""

Outputs = NDArray[np.floating]
"""(num_images, num_outputs) float: what an exported network gives."""

Outcome = NDArray[Any]
"""What is kept of outputs and labels; its shape and meaning are the task's."""

AnswerKind = Literal["ranking", "above", "values"]
ANSWER_KINDS: tuple[AnswerKind, ...] = ("ranking", "above", "values")


@dataclass(frozen=True)
class Metric:
    """A figure of an outcome. ``unit`` "" is a share or a plain number; ``lowest`` and ``highest`` bound it."""

    name: str
    unit: str = ""
    direction: Direction = "maximize"
    lowest: float = 0.0
    highest: float = 1.0

    @property
    def label(self) -> str:
        """As people read it: ``worst recall``."""
        return self.name.replace("_", " ")

    @property
    def best(self) -> float:
        return self.highest if self.direction == "maximize" else self.lowest


@dataclass(frozen=True)
class Answer:
    """What a runner says of one image's outputs, each of which has a name.

    - ``ranking``: the names with the largest outputs, shares of 1, as per cent.
    - ``above``: the names whose output is at least its threshold, largest first; possibly none.
    - ``values``: every name with its output and ``unit``.

    Raises:
        InvalidValueError: another kind.
    """

    kind: AnswerKind = "ranking"
    thresholds: tuple[float, ...] = ()
    unit: str = ""

    def __post_init__(self) -> None:
        if self.kind not in ANSWER_KINDS:
            raise InvalidValueError(f"an answer's kind is one of {', '.join(ANSWER_KINDS)}, got {self.kind!r}")

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "thresholds": list(self.thresholds), "unit": self.unit}


@dataclass(frozen=True)
class Card:
    """What the bundle's README and model card say; Markdown, without a newline at the end.

    ``title`` and ``purpose``: "Image classifier", "Tells 3 classes apart: a, b, c." ``output``: what the model gives,
    to end the sentence "output ...". ``result``: the primary metric on test images with what it was counted on, and
    ``details``: a table, say; both empty without an outcome. ``limits``: what not to expect, a sentence each.
    """

    title: str
    purpose: str
    output: str
    result: str
    details: str
    limits: tuple[str, ...]


@dataclass(frozen=True)
class Matrix:
    """Counts (len(names), len(names)): rows are what is true, columns what was predicted."""

    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        size = len(self.names)
        if [len(row) for row in self.counts] != [size] * size:
            shape = f"{len(self.counts)} rows of {sorted({len(row) for row in self.counts})}"
            raise InvalidValueError(f"a matrix of {size} names must be {size} x {size}, got {shape}")


@dataclass(frozen=True)
class Figure:
    """A part of the report about an outcome, as plain text: a sentence, a matrix, a table and a list, each if any.

    ``identifier`` is unique in the page; letters and dashes.
    """

    identifier: str
    title: str
    lead: str
    matrix: Matrix | None = None
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    list_title: str = ""
    items: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Figure:
        matrix = data.get("matrix")
        counts = () if matrix is None else tuple(tuple(int(n) for n in row) for row in matrix["counts"])
        return cls(
            identifier=str(data["identifier"]),
            title=str(data["title"]),
            lead=str(data["lead"]),
            matrix=None if matrix is None else Matrix(tuple(str(n) for n in matrix["names"]), counts),
            head=tuple(str(cell) for cell in data.get("head", ())),
            rows=tuple(tuple(str(cell) for cell in row) for row in data.get("rows", ())),
            list_title=str(data.get("list_title", "")),
            items=tuple(str(item) for item in data.get("items", ())),
        )


class Task(ABC):
    """Implement it as a frozen dataclass; what has no ``@abstractmethod`` has a default that suits most tasks.

    ``name`` is what ``--task`` and manifests call it. ``decision`` names what ``decide`` gives, for sentences like
    "same class on 99 % of the images". ``outputs`` are the names of a network's outputs, in their order.
    """

    name: ClassVar[str]
    decision: ClassVar[str] = "answer"
    outputs: tuple[str, ...]

    # Labels

    @classmethod
    @abstractmethod
    def from_labels(cls, given: Labels, origin: str) -> tuple[Task, Labels]:
        """The task of a data set, and its labels as they are trained with: (num_images, ...), int64 or float32.

        ``given`` (num_images, ...) are texts where they come from the names of folders, and what the array ``y`` of
        an .npz holds; ``origin`` names them in messages. The same labels give the same task.

        Raises:
            DatasetError: they are no labels of this task; says what was found and what is expected.
        """

    @abstractmethod
    def strata(self, labels: Labels) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        """Groups of images of which every split must have its share: (num_images,) int64, and the groups' names.

        Names are for messages: ``class 'cat'``. One group for all is allowed.
        """

    @abstractmethod
    def label_text(self, label: Labels) -> str:
        """The label of one image, as people read it."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """What images are labelled with, to end the sentence "training images of ...": ``10 classes``."""

    @property
    def num_outputs(self) -> int:
        """Of the network's last layer."""
        return len(self.outputs)

    # Training

    @abstractmethod
    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """What training makes small: a scalar that is differentiable in ``logits`` (num_images, num_outputs) float32.

        ``logits`` are the network's raw outputs, before ``activate``; ``labels`` as of ``from_labels``.
        """

    @abstractmethod
    def distillation_loss(self, logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
        """The same where a better network takes the place of the labels; ``teacher_logits`` need no gradient."""

    @abstractmethod
    def activate(self, logits: torch.Tensor) -> torch.Tensor:
        """(num_images, num_outputs) raw outputs to those that ship; becomes part of the exported graph.

        Plain tensor operations only. For ``ranking`` and ``above`` outputs are shares, 0..1.
        """

    @property
    def output_scale(self) -> float:
        """How large outputs typically are; differences between runtimes are judged relative to it."""
        return 1.0

    # Outcomes and metrics

    @abstractmethod
    def outcome(self, outputs: Outputs, labels: Labels) -> Outcome:
        """What is kept of the outputs on these images: enough for every metric, the smaller the better."""

    def merge(self, outcomes: Sequence[Outcome]) -> Outcome:
        """The outcome of all images from those of parts, of which there is at least one; sums by default."""
        return np.sum(np.stack(outcomes), axis=0)

    @property
    @abstractmethod
    def known_metrics(self) -> tuple[Metric, ...]:
        """What ``metrics`` may give. The first is the *primary* one, by which networks are ranked and int8 is judged:
        it is maximised, and 1 is perfect.
        """

    @abstractmethod
    def metrics(self, outcome: Outcome) -> dict[str, float]:
        """By name, finite; a figure that this outcome says nothing of is left out, the primary one never is."""

    @property
    def primary(self) -> Metric:
        return self.known_metrics[0]

    def score(self, outcome: Outcome) -> float:
        """The primary metric; higher is better."""
        return self.metrics(outcome)[self.primary.name]

    def interval(self, outcome: Outcome) -> tuple[float, float] | None:
        """95 % interval of the primary metric for images like these; None where it is not known."""
        return None

    @abstractmethod
    def outcome_to_json(self, outcome: Outcome) -> dict[str, Any]:
        """As plain JSON, for people and programs that read a run's files."""

    @abstractmethod
    def outcome_from_json(self, data: Mapping[str, Any]) -> Outcome:
        """The inverse."""

    # Decisions

    @abstractmethod
    def decide(self, outputs: Outputs) -> NDArray[Any]:
        """(num_images, ...): what outputs mean; compared by ``agrees``."""

    def agrees(self, reference: Outputs, outputs: Outputs) -> NDArray[np.bool_]:
        """(num_images,): whether both decide alike."""
        same = np.asarray(self.decide(reference) == self.decide(outputs))
        return np.asarray(same.reshape(len(same), -1).all(axis=1))

    def divergence(self, reference: Outputs, outputs: Outputs) -> float:
        """How far outputs moved, to find the layers that int8 hurts most: any measure, 0 when nothing did."""
        return float(np.abs(np.asarray(reference, np.float64) - np.asarray(outputs, np.float64)).mean())

    # What people are told

    @property
    @abstractmethod
    def answer(self) -> Answer:
        """What the bundle's runners print."""

    @abstractmethod
    def card(self, outcome: Outcome | None) -> Card:
        """What the bundle's texts say; ``outcome`` is of test images, None where there is none."""

    def manifest_metrics(self, outcome: Outcome) -> Any:
        """Figures of the test images for the bundle's manifest, as JSON; the metrics by default."""
        return self.metrics(outcome)

    @abstractmethod
    def figures(self, outcome: Outcome) -> tuple[Figure, ...]:
        """What the report shows of the test images."""

    def to_json(self) -> dict[str, Any]:
        """What results say of the task: its name, and what "accuracy" and "same" stand for in them."""
        return {"name": self.name, "metric": self.primary.name, "decision": self.decision}


@dataclass(frozen=True, eq=False)
class Scored:
    """The outcome of one network, with the task that knows what it means: what objectives are computed from."""

    task: Task
    outcome: Outcome

    @cached_property
    def metrics(self) -> dict[str, float]:
        return self.task.metrics(self.outcome)

    @property
    def accuracy(self) -> float:
        """The primary metric, by which networks are ranked."""
        return self.metrics[self.task.primary.name]


def outcome_to_bytes(outcome: Outcome) -> bytes:
    """For the journal: type and shape travel with the numbers (NumPy's format, version 1)."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(outcome), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def outcome_from_bytes(data: bytes) -> Outcome:
    """Raises ValueError: the bytes are no outcome."""
    outcome: Outcome = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    return outcome
