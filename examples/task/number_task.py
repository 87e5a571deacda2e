"""Regression: each picture shows one number, such as the reading of a gauge, an age or a count.

Labels are the names of class folders (``0.5/``, ``12/``) or the numbers ``y`` of an .npz.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.task import Answer, Card, Figure, Labels, Metric, Outcome, Outputs, Task
from hwautoml.errors import DatasetError

if TYPE_CHECKING:
    import torch

NUM_STRATA = 5
AGREEMENT = 0.05  # of the labels' spread: what counts as the same number
_FIX = "name one finite number per image, at least two different ones"


@dataclass(frozen=True)
class Regression(Task):
    """``mean`` and ``spread`` (standard deviation) are those of all labels: networks predict in these units, so that
    losses and gradients are near 1 whatever is measured.

    An outcome is (6,) float64: number of images, sums of y, y^2, |error|, error^2, and the largest |error|.
    """

    mean: float
    spread: float
    outputs: tuple[str, ...] = ("value",)

    name: ClassVar[str] = "regression"
    decision: ClassVar[str] = "value (within 5 % of the spread)"

    # Labels

    @classmethod
    def from_labels(cls, given: Labels, origin: str) -> tuple[Regression, NDArray[np.float32]]:
        try:
            numbers = np.asarray(given, dtype=np.float64)
        except ValueError as error:
            raise DatasetError(f"{origin} must be numbers: {error}", fix=_FIX) from error
        if numbers.ndim != 1 or not np.isfinite(numbers).all() or given.dtype.kind == "b":
            raise DatasetError(f"{origin} must be finite numbers (N,), got {given.dtype} {given.shape}", fix=_FIX)
        if len(np.unique(numbers)) < 2:
            raise DatasetError(f"{origin} has fewer than two different numbers", fix=_FIX)
        return cls(float(numbers.mean()), float(numbers.std())), numbers.astype(np.float32)

    def strata(self, labels: Labels) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        """Fifths of the images by their number, where there are enough of them."""
        number = NUM_STRATA if len(labels) >= 10 * NUM_STRATA else 1
        ranks = np.argsort(np.argsort(labels, kind="stable"))
        names = tuple(f"part {i + 1} of {number} of the numbers by size" for i in range(number))
        return (ranks * number // len(labels)).astype(np.int64), names

    def label_text(self, label: Labels) -> str:
        return f"{float(label):.6g}"

    @property
    def summary(self) -> str:
        return f"a number, {self.mean:.4g} +- {self.spread:.2g}"

    # Training

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self._huber(logits[:, 0], (labels - self.mean) / self.spread)

    def distillation_loss(self, logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
        return self._huber(logits, teacher_logits)

    def _huber(self, found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Squared near 0, absolute beyond one spread: a wrong label pulls no harder than others."""
        from torch.nn import functional

        return functional.huber_loss(found, wanted)

    def activate(self, logits: torch.Tensor) -> torch.Tensor:
        return logits * self.spread + self.mean

    @property
    def output_scale(self) -> float:
        return self.spread

    # Outcomes and metrics

    def outcome(self, outputs: Outputs, labels: Labels) -> Outcome:
        wanted = np.asarray(labels, np.float64)
        error = np.abs(np.asarray(outputs, np.float64)[:, 0] - wanted)
        largest = error.max() if len(error) else 0.0
        sums = [len(wanted), wanted.sum(), (wanted**2).sum(), error.sum(), (error**2).sum(), largest]
        return np.array(sums, dtype=np.float64)

    def merge(self, outcomes: Any) -> Outcome:
        stacked = np.stack(outcomes)
        return np.append(stacked[:, :5].sum(axis=0), stacked[:, 5].max())

    @property
    def known_metrics(self) -> tuple[Metric, ...]:
        return (
            Metric("explained_variance"),  # the primary one: higher is better, 1 is perfect
            Metric("mean_error", direction="minimize", highest=math.inf),
            Metric("root_mean_square_error", direction="minimize", highest=math.inf),
            Metric("largest_error", direction="minimize", highest=math.inf),
        )

    def metrics(self, outcome: Outcome) -> dict[str, float]:
        """The explained variance is 0 for all that is no better than to say the mean of these images."""
        number, total, squares, absolute, squared_error, largest = (float(x) for x in outcome)
        variance = squares - total**2 / max(number, 1.0)
        if variance <= 1e-12 * max(squares, 1e-300):  # all numbers are alike
            explained = 1.0 if squared_error == 0 and number else 0.0
        else:
            explained = max(1.0 - squared_error / variance, 0.0)
        if not number:
            return {"explained_variance": explained}
        return {
            "explained_variance": explained,
            "mean_error": absolute / number,
            "root_mean_square_error": math.sqrt(squared_error / number),
            "largest_error": largest,
        }

    def outcome_to_json(self, outcome: Outcome) -> dict[str, Any]:
        return {"sums": outcome.tolist()}

    def outcome_from_json(self, data: Mapping[str, Any]) -> Outcome:
        return np.array(data["sums"], dtype=np.float64)

    # Decisions

    def decide(self, outputs: Outputs) -> NDArray[np.floating]:
        return np.asarray(outputs)[:, 0]

    def agrees(self, reference: Outputs, outputs: Outputs) -> NDArray[np.bool_]:
        return np.abs(self.decide(reference) - self.decide(outputs)) <= AGREEMENT * self.spread

    # What people are told

    @property
    def answer(self) -> Answer:
        return Answer("values")

    def card(self, outcome: Outcome | None) -> Card:
        found = {} if outcome is None else self.metrics(outcome)
        result = details = ""
        if outcome is not None and "mean_error" in found:
            result = (
                f"{found['explained_variance']:.2%} of the variance explained, mean error {found['mean_error']:.4g}, "
                f"on {int(outcome[0]):,} test images"
            )
            details = "\n".join(
                ["| figure | test images |", "|---|---|", *(f"| {n} | {v:.4g} |" for n, v in found.items())]
            )
        return Card(
            title="Reading a number",
            purpose=f"Reads one number off a picture; those it learnt from are {self.mean:.4g} +- {self.spread:.2g}.",
            output="one number",
            result=result,
            details=details or "Errors: not recorded.",
            limits=(
                "The model knows numbers like those it learnt from, and does not say when a picture shows none.",
                "The errors hold for pictures like those of the test split.",
            ),
        )

    def figures(self, outcome: Outcome) -> tuple[Figure, ...]:
        rows = tuple((name.replace("_", " "), f"{value:.4g}") for name, value in self.metrics(outcome).items())
        lead = f"On {int(outcome[0]):,} test images, in the unit of the labels."
        return (Figure("errors", "How far off", lead, head=("figure", "value"), rows=rows),)
