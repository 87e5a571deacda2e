"""Stratified, seeded splits of labels into train, val and test."""

from __future__ import annotations

from collections.abc import Sequence

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


def assign_splits(
    strata: NDArray[np.int64],
    given: Sequence[str],
    names: Sequence[str],
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    origin: str,
) -> dict[str, NDArray[np.int64]]:
    """Sorted indices into ``strata`` (num_images,) for train, val and test; ``names`` (num_strata,) for messages.

    ``given`` (num_images,) holds train, val, test or an empty text (anything goes). Splits that nothing was
    given to are drawn, stratum by stratum, from the training images: at least one image of each stratum each.

    Raises:
        DatasetError: a stratum has too few images to be split.
    """
    named = np.asarray(given)
    result = {split: np.flatnonzero(named == split) for split in ("val", "test")}
    pool = np.flatnonzero((named == "") | (named == "train"))
    wanted = [(s, f) for s, f in (("val", val_fraction), ("test", test_fraction)) if not len(result[s])]
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[NDArray[np.int64]]] = {"train": [], **{split: [] for split, _ in wanted}}
    for stratum, name in enumerate(names):
        members = pool[strata[pool] == stratum]
        if len(members) <= len(wanted):
            raise DatasetError(
                f"{name} of {origin} has {len(members)} usable image(s), too few to split into "
                f"{', '.join(['train', *(split for split, _ in wanted)])}; at least {len(wanted) + 1} are needed",
                fix="add images of it, or remove those that there are",
            )
        members = rng.permutation(members)
        for position, (split, fraction) in enumerate(wanted):
            # One is left for each split still to come, and for train.
            available = len(members) - (len(wanted) - position)
            count = min(max(1, round(fraction * np.count_nonzero(strata[pool] == stratum))), available)
            drawn[split].append(members[:count])
            members = members[count:]
        drawn["train"].append(members)
    result.update({split: np.sort(np.concatenate(parts)) for split, parts in drawn.items()})
    return {split: result[split].astype(np.int64) for split in SPLITS}
