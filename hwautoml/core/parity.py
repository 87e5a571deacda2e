"""The gate: a deployed model must compute what the trained one computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hwautoml.core.task import Outputs, Task
from hwautoml.errors import InvalidValueError, ParityError

MIN_AGREEMENT = 0.99  # below 1 because two nearly equal answers may change places within the tolerance


@dataclass(frozen=True)
class ParityReport:
    """``max_abs`` is the largest difference of an output, in units of the task's ``output_scale`` (infinite when one
    is not finite). ``agreement`` is the share of images on which both decide alike; ``decision`` is what is decided.
    """

    max_abs: float
    agreement: float
    num_images: int
    tolerance: float
    decision: str = "answer"

    @property
    def is_within_tolerance(self) -> bool:
        return self.max_abs <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        """``top1_agreement`` is the agreement: the key is older than tasks."""
        return {"max_abs": self.max_abs, "top1_agreement": self.agreement}


def check_parity(reference_outputs: Outputs, outputs: Outputs, *, task: Task, tolerance: float) -> ParityReport:
    """Compare (num_images, num_outputs) of the trained network with those of an artifact, same images.

    Raises:
        ParityError: the shapes differ.
        InvalidValueError: there are no images, or ``tolerance`` is not positive.
    """
    reference = np.asarray(reference_outputs, dtype=np.float64)
    other = np.asarray(outputs, dtype=np.float64)
    if not tolerance > 0:
        raise InvalidValueError(f"tolerance must be positive, got {tolerance}")
    if reference.ndim != 2 or not reference.size:
        raise InvalidValueError(f"expected (num_images, num_outputs) outputs, got shape {reference.shape}")
    if reference.shape != other.shape:
        raise ParityError(f"the artifact gives outputs of shape {other.shape}, the network {reference.shape}")
    with np.errstate(invalid="ignore"):  # inf - inf
        difference = np.abs(reference - other) / task.output_scale
    max_abs = float(difference.max()) if np.isfinite(difference).all() else float("inf")
    agreement = float(task.agrees(reference, other).mean())
    return ParityReport(max_abs, agreement, len(reference), tolerance, task.decision)


def require_parity(report: ParityReport, *, artifact: str, min_agreement: float = MIN_AGREEMENT) -> None:
    """``artifact`` names what was compared, for the message.

    Raises:
        ParityError: an output differs by more than the tolerance, or too many decisions differ.
    """
    if report.is_within_tolerance and report.agreement >= min_agreement:
        return
    raise ParityError(
        f"{artifact} does not compute what the trained network computes: over {report.num_images} images, "
        f"outputs differ by up to {report.max_abs:.3g} (tolerance {report.tolerance:.3g}) and "
        f"the {report.decision} is the same on {report.agreement:.2%} of them (at least {min_agreement:.2%} must be)",
        fix="report it with the architecture, or compile for another runtime",
    )
