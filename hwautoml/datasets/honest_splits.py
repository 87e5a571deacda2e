"""Splits that do not leak: copies and groups stay together, and what was given and leaks is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.finding import Finding, Severity
from hwautoml.core.shown import shown
from hwautoml.datasets.copies import Copies, find_copies, with_names
from hwautoml.datasets.looks import Looks
from hwautoml.datasets.splitting import SPLITS, Labelling, assign_splits
from hwautoml.errors import DatasetError

Splits = dict[str, NDArray[np.int64]]
NUM_EXAMPLES = 8
# Shares of all images from which copies are more than a trifle.
WARN_FRACTION = {"exact-copies": 0.01, "near-copies": 0.05}


def split_honestly(
    looks: Looks,
    labelling: Labelling,
    names: Sequence[str],
    group_names: Sequence[str],
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> tuple[Splits, list[Finding]]:
    """Splits of the images, and what was found of copies. ``labelling.groups`` is replaced by what belongs together:
    images of one name in ``group_names`` (num_images,; an empty one is nobody's) and copies.

    Raises:
        DatasetError: a class has too few images, or named groups, to be split.
    """
    copies = find_copies(looks)
    fractions = {"val_fraction": val_fraction, "test_fraction": test_fraction}
    findings = _copy_findings(copies, labelling, names)
    together = replace(labelling, groups=with_names(copies.near, group_names))
    try:
        splits = assign_splits(together, **fractions, seed=seed)
    except DatasetError as error:
        # Of too few different pictures: split all the same, for what is wrong is said, and the rest can be seen.
        alone = replace(labelling, groups=with_names(np.arange(len(names)), group_names))
        splits = assign_splits(alone, **fractions, seed=seed)
        message = f"copies cannot be kept in one split: {error.message}"
        findings.append(Finding("refuse", "only-copies", message, "add different pictures of it"))
    findings += _leaks(splits, copies, names)
    findings += _torn_groups(splits, group_names)
    return splits, findings


def _copy_findings(copies: Copies, labelling: Labelling, names: Sequence[str]) -> list[Finding]:
    findings = []
    number = len(names)
    if copies.are_all_alike:
        message = "very many images look nearly alike, so near copies (bursts) were not told from different pictures"
        fix = "if bursts or one object's pictures belong together, say so: --group COLUMN or --group '{group}_*'"
        findings.append(Finding("note", "all-alike", message, fix))
    for kind, groups, what in (
        ("exact-copies", copies.exact, "copies of others, to the pixel"),
        ("near-copies", copies.near, "nearly copies of others"),
    ):
        several = _several(groups if kind == "exact-copies" else _without_exact(copies))
        count = sum(len(members) - 1 for members in several)
        if count:
            severity: Severity = "warn" if count > WARN_FRACTION[kind] * number else "note"
            message = f"{count:,} of {number:,} images are {what}; where splits are drawn, copies share one"
            fix = "remove them: they add little, and weigh as much as different pictures"
            examples = _examples(several, names)
            findings.append(Finding(severity, kind, message, fix, count, examples))
    torn = [members for members in _several(copies.exact) if len(set(labelling.labels[members].tolist())) > 1]
    if torn:
        listed = " and ".join(f"{shown(names[i])} ({labelling.classes[labelling.labels[i]]})" for i in torn[0][:3])
        message = f"{len(torn):,} pictures are there with labels that contradict each other: {listed}"
        fix = "keep the right one of each"
        findings.append(Finding("warn", "contradicting-labels", message, fix, len(torn), _examples(torn, names)))
    return findings


def _without_exact(copies: Copies) -> NDArray[np.int64]:
    """Near groups of one image for each exact group; the other images by themselves, numbered below zero."""
    firsts = np.unique(copies.exact, return_index=True)[1]
    alone = -1 - np.arange(len(copies.near))
    alone[firsts] = copies.near[firsts]
    return alone


def _several(groups: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Members of each group of two or more, in order."""
    order = np.argsort(groups, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    return sorted((part for part in parts if len(part) > 1), key=lambda part: int(part[0]))


def _examples(several: Sequence[NDArray[np.int64]], names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(names[i] for i in members[:NUM_EXAMPLES]) for members in several[:NUM_EXAMPLES])


def _leaks(splits: Splits, copies: Copies, names: Sequence[str]) -> list[Finding]:
    """Of val and test images with a copy in a split that was seen before."""
    findings = []
    for position, split in enumerate(SPLITS[1:], 1):
        for earlier in SPLITS[:position]:
            seen = np.isin(copies.near[splits[split]], copies.near[splits[earlier]])
            count = int(seen.sum())
            if not count:
                continue
            leaking = splits[split][seen]
            exact = int(np.isin(copies.exact[leaking], copies.exact[splits[earlier]]).sum())
            message = (
                f"{count:,} of {len(splits[split]):,} {split} images have a copy in {earlier} "
                f"({exact:,} to the pixel): the accuracy on them says little"
            )
            examples = tuple(_with_copy(i, splits[earlier], copies, names) for i in leaking[:NUM_EXAMPLES])
            fix = f"remove them from {split}, or leave the split out: one without copies is drawn then"
            findings.append(Finding("warn", "leak", message, fix, count, examples))
    return findings


def _with_copy(index: int, earlier: NDArray[np.int64], copies: Copies, names: Sequence[str]) -> tuple[str, ...]:
    other = earlier[np.flatnonzero(copies.near[earlier] == copies.near[index])[0]]
    return names[index], names[other]


def _torn_groups(splits: Splits, group_names: Sequence[str]) -> list[Finding]:
    """Groups that given splits tear apart; drawn ones keep them."""
    found: dict[str, set[str]] = {}
    for split, indices in splits.items():
        for index in indices.tolist():
            if group_names[index]:
                found.setdefault(group_names[index], set()).add(split)
    torn = sorted(name for name, places in found.items() if len(places) > 1)
    if not torn:
        return []
    message = f"{len(torn):,} of {len(found):,} groups lie in more than one of the given splits, such as {torn[0]}"
    return [Finding("warn", "torn-groups", message, "move each group into one split", len(torn))]
