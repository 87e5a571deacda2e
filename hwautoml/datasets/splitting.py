"""Stratified, seeded splits of labels into train, val and test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwautoml.errors import DatasetError, InvalidValueError

SPLITS = ("train", "val", "test")


def check_fractions(val_fraction: float, test_fraction: float) -> None:
    """Raises InvalidValueError unless both are positive and leave something to train on."""
    if not (val_fraction > 0 and test_fraction > 0 and val_fraction + test_fraction < 1):
        raise InvalidValueError(
            "`val_fraction > 0`, `test_fraction > 0` and a sum below 1 must hold, "
            f"but got val_fraction={val_fraction}, test_fraction={test_fraction}"
        )


@dataclass(frozen=True, eq=False)
class Labelling:
    """What is to be split. ``labels`` (num_images,) index the strata ``classes``, whose names
    are for messages (``class 'cat'``); ``given`` (num_images,) holds train, val, test
    or an empty text (anything goes). Images of one number in ``groups`` (num_images,) belong together.
    """

    labels: NDArray[np.int64]
    given: Sequence[str]
    classes: Sequence[str]
    groups: NDArray[np.int64]
    origin: str


def assign_splits(
    labelling: Labelling, *, val_fraction: float, test_fraction: float, seed: int
) -> dict[str, NDArray[np.int64]]:
    """Sorted indices of images for train, val and test.

    Splits that nothing was given to are drawn, class by class and group by group, from the training images: at least
    one image of each class each.

    Raises:
        DatasetError: a class has too few images, or groups, to be split.
    """
    named = np.asarray(labelling.given)
    result = {split: np.flatnonzero(named == split) for split in ("val", "test")}
    pool = np.flatnonzero((named == "") | (named == "train"))
    fractions = {s: f for s, f in (("val", val_fraction), ("test", test_fraction)) if not len(result[s])}
    drawing = _Drawing(labelling, pool, fractions, np.random.default_rng(seed))
    drawing.draw_mixed_groups()
    for label in range(len(labelling.classes)):
        drawing.draw_class(label)
    result.update({split: np.sort(np.concatenate(parts)) for split, parts in drawing.drawn.items()})
    return {split: result[split].astype(np.int64) for split in SPLITS}


class _Drawing:
    """``drawn`` fills with parts of ``pool``: for train, and for each split of ``fractions``."""

    def __init__(
        self,
        labelling: Labelling,
        pool: NDArray[np.int64],
        fractions: Mapping[str, float],
        rng: np.random.Generator,
    ) -> None:
        self._labelling, self._pool, self._rng = labelling, pool, rng
        number = self._count(pool)
        self._wanted = {split: np.maximum(1, np.rint(share * number).astype(int)) for split, share in fractions.items()}
        self._counts = {split: np.zeros_like(number) for split in ("train", *fractions)}
        self.drawn: dict[str, list[NDArray[np.int64]]] = {split: [] for split in self._counts}
        order = pool[np.argsort(labelling.groups[pool], kind="stable")]
        borders = np.flatnonzero(np.diff(labelling.groups[order])) + 1
        groups = sorted((part for part in np.split(order, borders) if len(part)), key=lambda part: int(part[0]))
        self._mixed: list[NDArray[np.int64]] = []
        self._units: list[list[NDArray[np.int64]]] = [[] for _ in labelling.classes]
        for members in groups:
            labels = labelling.labels[members]
            (self._units[labels[0]] if (labels == labels[0]).all() else self._mixed).append(members)

    def _count(self, members: NDArray[np.int64]) -> NDArray[np.int64]:
        """(num_classes,)"""
        return np.bincount(self._labelling.labels[members], minlength=len(self._labelling.classes))

    def _put(self, split: str, members: NDArray[np.int64]) -> None:
        self.drawn[split].append(members)
        self._counts[split] += self._count(members)

    def draw_mixed_groups(self) -> None:
        """Groups of several classes, each to where it leads nearest to what is wanted, else to train."""
        if not self._mixed:
            return  # and no random number is drawn: without such groups, splits are as they always were
        for index in self._rng.permutation(len(self._mixed)):
            members = self._mixed[index]
            gain = {
                split: np.abs(self._counts[split] - wanted).sum()
                - np.abs(self._counts[split] + self._count(members) - wanted).sum()
                for split, wanted in self._wanted.items()
            }
            best = max(gain, key=lambda split: gain[split], default="train")
            self._put(best if best in gain and gain[best] > 0 else "train", members)

    def draw_class(self, label: int) -> None:
        """The groups of this class alone. Raises DatasetError where they are too few for all splits."""
        units = self._units[label]
        lacking = [split for split, counts in self._counts.items() if not counts[label]]
        if len(units) < len(lacking):
            members = self._pool[self._labelling.labels[self._pool] == label]
            num_groups = len(units) + len(self._counts) - len(lacking)
            _raise_too_few(self._labelling, self._labelling.classes[label], members, num_groups, list(self._wanted))
        left = [units[index] for index in self._rng.permutation(len(units))]
        for position, (split, wanted) in enumerate(self._wanted.items()):
            # One is left for each split still to come, and for train, that has none.
            later = ("train", *list(self._wanted)[position + 1 :])
            available = len(left) - sum(1 for other in later if other in lacking)
            taken, left = _take(left, int(wanted[label] - self._counts[split][label]), available, split in lacking)
            for members in taken:
                self._put(split, members)
        for members in left:
            self._put("train", members)


def _take(
    units: list[NDArray[np.int64]], wanted: int, available: int, needs_one: bool
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """At most ``available`` of the ``units``, in their order, that hold about ``wanted`` images; and the others.

    A unit that would lead further away from ``wanted`` than leaving it out is left out; where one is needed, the
    smallest goes at least.
    """
    taken: list[int] = []
    count = 0
    for index, unit in enumerate(units):
        if count >= wanted or len(taken) >= available:
            break
        if count + len(unit) - wanted <= wanted - count:
            taken.append(index)
            count += len(unit)
    if needs_one and not taken:
        taken = [min(range(len(units)), key=lambda index: len(units[index]))]
    chosen = set(taken)
    return [units[i] for i in taken], [unit for i, unit in enumerate(units) if i not in chosen]


def _raise_too_few(
    labelling: Labelling, name: str, members: NDArray[np.int64], num_units: int, drawn: Sequence[str]
) -> None:
    what = f"{len(members)} usable image(s)"
    if len(members) > num_units:
        what += f" in {num_units} group(s) that belong together"
    raise DatasetError(
        f"{name} of {labelling.origin} has {what}, too few to split into {', '.join(['train', *drawn])}; "
        f"at least {len(drawn) + 1} are needed",
        fix="add images of it, or remove those that there are",
    )
