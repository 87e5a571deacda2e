"""Which starting point a run has: the one asked for, or with ``auto`` the one that suits its images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwautoml.core.run_result import StartChoice
from hwautoml.core.start_point import SCRATCH, StartPoint
from hwautoml.errors import InvalidValueError, MissingDependencyError
from hwautoml.pipeline.runs.journal import Journal
from hwautoml.pipeline.runs.settings import RunSettings
from hwautoml.starts import load_start

if TYPE_CHECKING:
    from hwautoml.datasets import ImageDataset

AUTO, FOR_PHOTOGRAPHS = "auto", "efficientnet-lite0"
MAX_IMAGES = 20_000  # with more, and the time that they take anyway, weights of other images are a smaller help


def require_start(settings: RunSettings) -> None:
    """Refuses what says without a look at the images that it cannot be used.

    Raises:
        UnknownNameError: there is no such starting point.
        MissingDependencyError: its weights are not at hand.
        InvalidValueError: it has a space of its own, and another one was asked for.
    """
    if settings.start == AUTO:
        return
    start = load_start(settings.start)
    reason = start.unavailable_reason()
    if reason is not None:
        message, _, fix = reason.partition(": ")
        raise MissingDependencyError(f"starting point {settings.start} is not at hand: {message}", fix=fix or None)
    point = start.point
    if point.is_pretrained and settings.space not in (RunSettings.space, point.space):
        raise InvalidValueError(
            f"starting point {point.name} has weights for space {point.space}, not for {settings.space}",
            fix=f"leave out --space, or --start {SCRATCH.name}",
        )


def chosen_start(journal: Journal, settings: RunSettings) -> StartPoint:
    """As far as it is known: with ``auto``, and before the images were seen, the one that photographs would get."""
    choice = journal.start_choice
    if choice is not None:
        return load_start(choice.name).point
    if settings.start != AUTO:
        return load_start(settings.start).point
    start = load_start(FOR_PHOTOGRAPHS)
    is_possible = settings.space == RunSettings.space and settings.channels != 1 and start.unavailable_reason() is None
    return start.point if is_possible else SCRATCH


def judge_start(candidate: StartPoint, dataset: ImageDataset) -> StartChoice:
    """Of the images as they are: a pretrained network is for photographs, and for sets that are not large."""
    if not candidate.is_pretrained:
        return StartChoice(SCRATCH.name, "no pretrained network is at hand for these images")
    if dataset.image_size < (candidate.native_resolution or 0):
        size = f"{dataset.image_size} x {dataset.image_size} pixels"
        return StartChoice(SCRATCH.name, f"images of {size} are no photographs, which pretrained networks are for")
    if dataset.train.num_images > MAX_IMAGES:
        return StartChoice(SCRATCH.name, f"{dataset.train.num_images:,} training images can do without")
    few = f"{dataset.train.num_images:,} training photographs are few"
    return StartChoice(candidate.name, f"{few}, and {candidate.trained_on} has taught it what photographs share")
