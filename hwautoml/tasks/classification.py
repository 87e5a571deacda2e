"""Single-label classification: each picture shows one of several classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.interval import wilson_interval
from hwautoml.core.markdown import plain
from hwautoml.core.task import Answer, Card, Figure, Labels, Matrix, Metric, Outcome, Outputs, Task
from hwautoml.errors import DatasetError

if TYPE_CHECKING:
    import torch

LABEL_SMOOTHING = 0.05
MAX_CLASSES_SHOWN = 20
NUM_MISTAKES_SHOWN = 5


@dataclass(frozen=True)
class Classification(Task):
    """``outputs`` are the classes, sorted by name; a label indexes them, an output is a class's probability.

    An outcome is the confusion matrix: (num_classes, num_classes) int64 counts, rows are true classes.
    """

    outputs: tuple[str, ...]

    name: ClassVar[str] = "classification"
    decision: ClassVar[str] = "class"

    # Labels

    @classmethod
    def from_labels(cls, given: Labels, origin: str) -> tuple[Classification, NDArray[np.int64]]:
        if given.dtype.kind not in "iuU":
            raise DatasetError(f"{origin} is {given.dtype}; expected integers or texts", fix=_FIX)
        if given.ndim != 1:
            raise DatasetError(f"{origin} has shape {given.shape}; expected one class per image, (N,)", fix=_FIX)
        values, numbers = np.unique(given, return_inverse=True)
        if len(values) < 2:
            raise DatasetError(
                f"{origin} has one class only, {str(values[0])!r}" if len(values) else f"{origin} is empty",
                fix="add images of something else",
            )
        return cls(tuple(str(value) for value in values)), numbers.astype(np.int64)

    def strata(self, labels: Labels) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        return labels.astype(np.int64), tuple(f"class {name!r}" for name in self.outputs)

    def label_text(self, label: Labels) -> str:
        return self.outputs[int(label)]

    @property
    def summary(self) -> str:
        return f"{len(self.outputs)} classes"

    # Training

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross entropy with label smoothing (Szegedy et al. 2016)."""
        from torch.nn import functional

        return functional.cross_entropy(logits, labels, label_smoothing=LABEL_SMOOTHING)

    def distillation_loss(self, logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
        from torch.nn import functional

        return functional.cross_entropy(logits, teacher_logits.softmax(1))

    def activate(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.softmax(dim=1)

    # Outcomes and metrics

    def outcome(self, outputs: Outputs, labels: Labels) -> NDArray[np.int64]:
        size = len(self.outputs)
        flat = np.asarray(labels, np.int64) * size + self.decide(outputs)
        return np.bincount(flat, minlength=size**2).reshape(size, size).astype(np.int64)

    @property
    def known_metrics(self) -> tuple[Metric, ...]:
        names = ["accuracy", "balanced_accuracy", "macro_f1", "worst_recall"]
        names += [f"{figure}:{name}" for figure in ("recall", "precision") for name in self.outputs]
        return tuple(Metric(name) for name in names)

    def metrics(self, outcome: Outcome) -> dict[str, float]:
        """Averages are over the classes that the images show; the accuracy of no images is 0."""
        rows = self.manifest_metrics(outcome)
        found = {"accuracy": float(np.trace(outcome) / max(outcome.sum(), 1))}
        recalls = [row["recall"] for row in rows if row["recall"] is not None]
        if recalls:
            found["balanced_accuracy"] = float(np.mean(recalls))
            found["macro_f1"] = float(np.mean([_f1(row) for row in rows if row["recall"] is not None]))
            found["worst_recall"] = min(recalls)
        for figure in ("recall", "precision"):
            found |= {f"{figure}:{row['class']}": row[figure] for row in rows if row[figure] is not None}
        return found

    def interval(self, outcome: Outcome) -> tuple[float, float] | None:
        number = int(outcome.sum())
        return wilson_interval(self.score(outcome), number) if number else None

    def outcome_to_json(self, outcome: Outcome) -> dict[str, Any]:
        return {"confusion": outcome.tolist()}

    def outcome_from_json(self, data: Mapping[str, Any]) -> NDArray[np.int64]:
        return np.array(data["confusion"], dtype=np.int64)

    # Decisions

    def decide(self, outputs: Outputs) -> NDArray[np.int64]:
        return np.asarray(outputs).argmax(axis=1)

    def divergence(self, reference: Outputs, outputs: Outputs) -> float:
        """Mean Kullback-Leibler divergence in nats; cf. Cai et al. 2020, "ZeroQ", section 3.2."""
        p, q = (np.clip(np.asarray(outputs, np.float64), 1e-12, None) for outputs in (reference, outputs))
        p, q = (values / values.sum(axis=1, keepdims=True) for values in (p, q))  # or rounding makes it negative
        return max(float(np.mean(np.sum(p * np.log(p / q), axis=1))), 0.0)

    # What people are told

    @property
    def answer(self) -> Answer:
        return Answer("ranking")

    def card(self, outcome: Outcome | None) -> Card:
        rows = [] if outcome is None else self.manifest_metrics(outcome)
        shown = ", ".join(map(plain, self.outputs[:MAX_CLASSES_SHOWN])) + (
            ", ..." if len(self.outputs) > MAX_CLASSES_SHOWN else ""
        )
        return Card(
            title="Image classifier",
            purpose=f"Tells {len(self.outputs)} classes apart: {shown}.",
            output=f"one probability for each of {len(self.outputs)} classes",
            result="" if outcome is None or not outcome.sum() else self._result(outcome),
            details=_table(rows) if rows else "Per class: not recorded.",
            limits=(
                "The model knows these classes and no others: a picture of anything else gets one of them, often with "
                "a high\n  probability. Probabilities are not calibrated.",
                "The accuracy holds for pictures like those of the test split. Other cameras, other light or another "
                f"distribution\n  of classes have not been tested{_worst(rows)}.",
            ),
        )

    def manifest_metrics(self, outcome: Outcome) -> list[dict[str, Any]]:
        """Per class: images, recall, precision (None where nothing was predicted)."""
        right, images, predicted = np.diag(outcome), outcome.sum(axis=1), outcome.sum(axis=0)
        return [
            {
                "class": name,
                "images": int(images[i]),
                "recall": float(right[i] / images[i]) if images[i] else None,
                "precision": float(right[i] / predicted[i]) if predicted[i] else None,
            }
            for i, name in enumerate(self.outputs)
        ]

    def figures(self, outcome: Outcome) -> tuple[Figure, ...]:
        if not outcome.any():
            return ()
        counts = outcome.tolist()
        mistakes = ((n, i, j) for i, row in enumerate(counts) for j, n in enumerate(row) if n and i != j)
        worst = sorted(mistakes, reverse=True)[:NUM_MISTAKES_SHOWN]
        return (
            Figure(
                identifier="confusion",
                title="What is mistaken for what",
                lead=f"{int(np.trace(outcome)):,} of {int(outcome.sum()):,} test images right. "
                "A row is a true class and adds up to 100 %.",
                matrix=Matrix(self.outputs, tuple(tuple(row) for row in counts)),
                list_title="Most frequent mistakes" if worst else "No mistakes.",
                items=tuple(
                    f"{self.outputs[i]} taken for {self.outputs[j]}: {n} of {sum(counts[i])}" for n, i, j in worst
                ),
            ),
        )

    def _result(self, outcome: Outcome) -> str:
        share, number = self.score(outcome), int(outcome.sum())
        low, high = wilson_interval(share, number)
        return f"{share:.2%} of {number:,} test images (95 % interval {low:.2%} to {high:.2%})"


_FIX = "name one class per image, as an integer or a text; for other labels: --task"


def _f1(row: Mapping[str, Any]) -> float:
    recall, precision = row["recall"], row["precision"] or 0.0
    return 2 * recall * precision / (recall + precision) if recall and precision else 0.0


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| class | test images | recall | precision |", "|---|---|---|---|"]
    for row in rows:
        name = plain(row["class"])
        lines.append(f"| {name} | {row['images']:,} | {_percent(row['recall'])} | {_percent(row['precision'])} |")
    return "\n".join(lines)


def _worst(rows: Sequence[Mapping[str, Any]]) -> str:
    known = [row for row in rows if row["recall"] is not None]
    if not known:
        return ""
    row = min(known, key=lambda r: r["recall"])
    return f"; of the classes, {plain(row['class'])} is recognised least often ({row['recall']:.1%})"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
