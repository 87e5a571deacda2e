"""What to ask of labelled images before anything is trained on them; the answers as findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.finding import Finding
from hwautoml.core.interval import wilson_interval
from hwautoml.core.pixel_rule import Fit
from hwautoml.datasets.decoding import PictureFacts
from hwautoml.datasets.naming import first_of
from hwautoml.datasets.probing import cut_off

NUM_EXAMPLES = 8
# Grey levels by which a picture's pixels deviate: below, nothing is to be seen.
MIN_DEVIATION = 2.0
REFUSED_FLAT_FRACTION = 0.5
MIN_PER_CLASS = 10
MAX_IMBALANCE = 5.0
MIN_TEST_IMAGES = 30
# Half of the interval, in points of accuracy, that is worth a note.
WIDE_POINTS = 3.0
# Share that the centre square leaves out.
WORTH_SAYING = 0.4


def content_findings(
    names: Sequence[str], sums: NDArray[np.int64], num_pixels: int, labels: NDArray[np.int64], classes: Sequence[str]
) -> list[Finding]:
    """Of pictures in which (nearly) all pixels are alike: ``sums`` (num_images, 2, C) are of values and squares."""
    means = sums / num_pixels
    deviation = np.sqrt(np.maximum(means[:, 1] - means[:, 0] ** 2, 0)).max(axis=1)
    flat = np.flatnonzero(deviation < MIN_DEVIATION)
    if not len(flat):
        return []
    count, examples = len(flat), tuple((names[i],) for i in flat[:NUM_EXAMPLES])
    message = f"{count:,} of {len(names):,} images are one flat colour, or nearly"
    whole = [name for label, name in enumerate(classes) if (labels == label).sum() == (labels[flat] == label).sum() > 0]
    if whole:
        message += f"; all of {first_of(whole)}"
    if count > REFUSED_FLAT_FRACTION * len(names):
        fix = "look at the files: usual are failed exports, values above 255 that were cut, 16-bit colour (8 are read)"
        return [Finding("refuse", "flat", f"{message}: there is nothing to learn from", fix, count, examples)]
    return [Finding("warn", "flat", message, "remove them, unless a blank picture is what to expect", count, examples)]


def label_findings(counts: Mapping[str, int], num_test: int) -> list[Finding]:
    """``counts``: images by class, of all splits."""
    findings = []
    small = {name: count for name, count in counts.items() if count < MIN_PER_CLASS}
    if small:
        listed = first_of([f"{name} ({count})" for name, count in sorted(small.items(), key=lambda item: item[1])])
        message = f"{len(small)} of {len(counts)} classes have fewer than {MIN_PER_CLASS} images: {listed}"
        findings.append(Finding("warn", "small-classes", message, "add images of them, or join classes", len(small)))
    rarest, commonest = min(counts, key=lambda name: counts[name]), max(counts, key=lambda name: counts[name])
    ratio = counts[commonest] / max(counts[rarest], 1)
    if ratio >= MAX_IMBALANCE:
        share = counts[commonest] / sum(counts.values())
        message = (
            f"{commonest} has {ratio:.0f} times as many images as {rarest} ({counts[commonest]:,} and "
            f"{counts[rarest]:,}): always saying {commonest} is {share:.0%} right, so look at the recall of each class"
        )
        findings.append(Finding("warn", "imbalance", message, f"add images of {rarest}"))
    low, high = wilson_interval(0.9, num_test)
    points = 50 * (high - low)
    if points > WIDE_POINTS:
        message = f"with {num_test} test images an accuracy of 90 % means {low:.0%} to {high:.0%} (95 % interval)"
        severity, fix = ("warn", "add images") if num_test < MIN_TEST_IMAGES else ("note", "")
        findings.append(Finding("warn" if severity == "warn" else "note", "small-test", message, fix, num_test))
    return findings


def file_findings(
    broken: Mapping[str, str], left_out: Mapping[str, str], facts: Sequence[PictureFacts | None], fit: Fit
) -> list[Finding]:
    """``broken`` and ``left_out``: why files could not be read, or were not looked at, by name; ``fit``: how pictures
    become squares."""
    findings = []
    for kind, found, what, fix in (
        ("broken-files", broken, "skipped {} of {} images that cannot be read", "replace or remove them"),
        ("left-out", left_out, "left out {} pictures", "put them into a class's folder, or convert them"),
    ):
        if found:
            listed = first_of([f"{name} ({reason})" for name, reason in found.items()], 3)
            message = f"{what.format(f'{len(found):,}', f'{len(facts):,}')}: {listed}"
            examples = tuple((name,) for name in list(found)[:NUM_EXAMPLES])
            findings.append(Finding("warn", kind, message, fix, len(found), examples))
    return [*findings, *_fit_findings([fact for fact in facts if fact is not None], fit)]


def _fit_findings(facts: Sequence[PictureFacts], fit: Fit) -> list[Finding]:
    cut = float(np.median([cut_off((fact.width, fact.height)) for fact in facts])) if facts else 0.0
    if fit != "crop":
        how = "squeezed into squares" if fit == "stretch" else "brought to squares by stripes of grey"
        message = (
            f"the images are {how}, so that nothing is cut off: the centre square would leave out {cut:.0%} of half"
        )
        return [Finding("note", "fit", message)]
    if cut <= WORTH_SAYING:
        return []
    message = f"cropping to the centre square cuts off {cut:.0%} of half of the images, or more"
    fix = "if what matters lies outside the centre: --fit pad, or --fit stretch where all have one shape"
    return [Finding("warn", "cut-off", message, fix, len(facts))]
