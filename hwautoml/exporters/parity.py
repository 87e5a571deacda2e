"""The gate: a deployed model must compute what the trained one computes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwautoml.errors import InvalidValueError, ParityError


@dataclass(frozen=True)
class ParityReport:
    """``max_abs`` is the largest difference of a probability (infinite when one is not finite).

    ``top1_agreement`` is the fraction of images that both give the same class.
    """

    max_abs: float
    top1_agreement: float
    num_images: int
    tolerance: float

    @property
    def is_within_tolerance(self) -> bool:
        return self.max_abs <= self.tolerance


def check_parity(
    reference_probabilities: NDArray[np.floating], probabilities: NDArray[np.floating], *, tolerance: float
) -> ParityReport:
    """Compare (num_images, num_classes) of the trained network with those of an artifact, same images.

    Raises:
        ParityError: the shapes differ.
        InvalidValueError: there are no images, or ``tolerance`` is not positive.
    """
    reference = np.asarray(reference_probabilities, dtype=np.float64)
    other = np.asarray(probabilities, dtype=np.float64)
    if not tolerance > 0:
        raise InvalidValueError(f"tolerance must be positive, got {tolerance}")
    if reference.ndim != 2 or not reference.size:
        raise InvalidValueError(f"expected (num_images, num_classes) probabilities, got shape {reference.shape}")
    if reference.shape != other.shape:
        raise ParityError(f"the artifact gives probabilities of shape {other.shape}, the network {reference.shape}")
    with np.errstate(invalid="ignore"):  # inf - inf
        difference = np.abs(reference - other)
    max_abs = float(difference.max()) if np.isfinite(difference).all() else float("inf")
    agreement = float((reference.argmax(axis=1) == other.argmax(axis=1)).mean())
    return ParityReport(max_abs, agreement, len(reference), tolerance)


def require_parity(report: ParityReport, *, artifact: str, min_top1_agreement: float = 0.99) -> None:
    """``artifact`` names what was compared, for the message.

    ``min_top1_agreement`` is below 1 because two nearly equal classes may change places within the tolerance.

    Raises:
        ParityError: a probability differs by more than the tolerance, or too many classes differ.
    """
    if report.is_within_tolerance and report.top1_agreement >= min_top1_agreement:
        return
    raise ParityError(
        f"{artifact} does not compute what the trained network computes: over {report.num_images} images, "
        f"probabilities differ by up to {report.max_abs:.3g} (tolerance {report.tolerance:.3g}) and "
        f"{report.top1_agreement:.2%} of the classes agree (at least {min_top1_agreement:.2%} must)",
        fix="report it with the architecture, or compile for another runtime",
    )
