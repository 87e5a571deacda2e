"""A look at a sample of the files: size, channels and pixel rule that all of them are to be decoded by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.pixel_rule import BLACK, GREY, WHITE, Fit, PixelRule
from hwautoml.datasets.decoding import (
    PictureFacts,
    UnusableImageError,
    deep_pixels,
    layered_thumbnail,
    picture_facts,
    quiet_decoding,
)
from hwautoml.datasets.layout import LabelledFile
from hwautoml.datasets.levels import find_levels, range_of
from hwautoml.datasets.safety import READ_ERRORS
from hwautoml.datasets.sources import FileSource

NUM_PROBED = 512
NUM_DEEP = 256
NUM_LAYERED = 128
THUMBNAIL_SIDE = 64
# Of 16:9, the centre square leaves out 44 %.
MAX_CUT_OFF = 0.45
ALIKE_RATIOS, ALIKE_SHARE = 0.1, 0.9


@dataclass(frozen=True)
class Probe:
    """What to decode to."""

    image_size: int
    channels: int
    rule: PixelRule


def probe_files(
    source: FileSource,
    files: Sequence[LabelledFile],
    image_size: int | None,
    channels: int | None,
    fit: Fit | None,
) -> Probe:
    """Fill in what was not asked for, from up to 512 evenly spaced files.

    Size: the native one when all are square, equal and at most 64; else 32 when the median short side is
    below 64, else 64. Channels: 3 as soon as one file is in colour. Fit: ``choose_fit``. Levels and background
    come from files that training may see: those of a given val/ or test/ have no say.
    """
    facts = _facts(source, files)
    sizes = [(fact.width, fact.height) for fact in facts.values()]
    if channels is None:
        channels = 1 if facts and all(fact.channels == 1 for fact in facts.values()) else 3
    rule = replace(_rule(source, files, facts), fit=fit or choose_fit(sizes))
    return Probe(image_size or default_image_size(sizes), channels, rule)


def default_image_size(sizes: Sequence[tuple[int, int]]) -> int:
    """``sizes`` are (width, height) in pixels."""
    if not sizes:
        return 32
    (width, height) = sizes[0]
    if width == height <= 64 and len(set(sizes)) == 1:
        return width
    return 32 if float(np.median([min(size) for size in sizes])) < 64 else 64


def choose_fit(sizes: Sequence[tuple[int, int]]) -> Fit:
    """The centre of what is nearly square, as photographs are. Of images of which it would cut off more than 45 %, by
    the median, all is kept: squeezed where all have one shape, else between stripes.
    """
    if not sizes or float(np.median([cut_off(size) for size in sizes])) <= MAX_CUT_OFF:
        return "crop"
    ratios = np.array([width / height for width, height in sizes])
    alike = np.abs(ratios / np.median(ratios) - 1) <= ALIKE_RATIOS
    return "stretch" if alike.mean() >= ALIKE_SHARE else "pad"


def cut_off(size: tuple[int, int]) -> float:
    """Share of a picture that its centre square leaves out."""
    return 1 - min(size) / max(size)


def _facts(source: FileSource, files: Sequence[LabelledFile]) -> dict[int, PictureFacts]:
    """By file index; what cannot be read is left to the full pass, which counts and names it."""
    found = {}
    for position in np.unique(np.linspace(0, len(files) - 1, min(NUM_PROBED, len(files))).astype(int)).tolist():
        path = files[position].file.path
        try:
            with quiet_decoding():
                found[position] = picture_facts(source.read(path))
        except (UnusableImageError, *READ_ERRORS):
            continue
    return found


def _rule(source: FileSource, files: Sequence[LabelledFile], facts: dict[int, PictureFacts]) -> PixelRule:
    seen = [index for index in facts if files[index].split in ("", "train")]
    ranges, pictures = [], []
    for index in _spread([i for i in seen if facts[i].is_deep], NUM_DEEP):
        try:
            found = range_of(deep_pixels(source.read(files[index].file.path)))
        except (UnusableImageError, *READ_ERRORS):
            continue
        if found is not None:
            ranges.append(found)
    for index in _spread([i for i in seen if facts[i].has_alpha], NUM_LAYERED):
        try:
            pictures.append(layered_thumbnail(source.read(files[index].file.path), THUMBNAIL_SIDE))
        except (UnusableImageError, *READ_ERRORS):
            continue
    return PixelRule(find_levels(ranges), choose_background(pictures))


def _spread(indices: list[int], count: int) -> list[int]:
    return [indices[i] for i in np.linspace(0, len(indices) - 1, min(count, len(indices))).astype(int).tolist()]


def choose_background(pictures: Sequence[NDArray[np.uint8]]) -> int:
    """White, unless black or mid-grey shows the shapes of more of the ``pictures`` (h, w, 4), RGBA.

    White shapes on nothing vanish on white; black and white ones together are told apart on grey.
    """
    grounds = (WHITE, BLACK, GREY)
    contrast = np.array([[_contrast(picture, ground) for ground in grounds] for picture in pictures]).reshape(-1, 3)
    shown = contrast >= np.maximum(0.25 * contrast.max(axis=1, initial=0), 2)[:, None]
    return grounds[int(np.argmax(shown.sum(axis=0)))]


def _contrast(picture: NDArray[np.uint8], ground: int) -> float:
    """Standard deviation in grey levels, the largest of the channels."""
    alpha = picture[..., 3:] / 255.0
    return float((picture[..., :3] * alpha + ground * (1 - alpha)).std(axis=(0, 1)).max())
