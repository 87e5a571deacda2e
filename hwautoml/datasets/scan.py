"""One pass over all files: decode, checksum, and find what cannot be used."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwautoml.datasets.decoding import (
    Progress,
    UnusableImageError,
    bombs_are_errors,
    image_header,
    map_chunks,
    read_image,
)
from hwautoml.datasets.layout import LabelledFile
from hwautoml.datasets.safety import READ_ERRORS
from hwautoml.datasets.sources import FileSource
from hwautoml.errors import DatasetError

NUM_PROBED = 512
MAX_SKIPPED_FRACTION = 0.1
CHANNELS_FIX = "convert the files, or choose with channels=3 or channels=1 (--channels rgb or --channels grey)"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Scan:
    """What the pass found; ``pixels`` (num_files, S, S, C) uint8 is None when the set is to be streamed.

    ``reasons`` says by file index why a file is unusable. ``sums`` (num_files, 2, C) int64 holds every image's
    sum and sum of squares per channel. ``checksums`` (num_files,) are CRC-32 of the files.
    """

    image_size: int
    channels: int
    pixels: NDArray[np.uint8] | None
    sums: NDArray[np.int64]
    checksums: NDArray[np.uint32]
    reasons: Mapping[int, str]


@dataclass(frozen=True)
class Probe:
    """Size and channels to decode to, from the headers of a sample."""

    image_size: int
    channels: int


def probe_files(
    source: FileSource, files: Sequence[LabelledFile], image_size: int | None, channels: int | None
) -> Probe:
    """Fill in what was not asked for, from up to 512 evenly spaced files.

    Size: the native one when all are square, equal and at most 64; else 32 when the median short side is
    below 64, else 64.

    Raises:
        DatasetError: grey and colour files are mixed.
    """
    if image_size is not None and channels is not None:
        return Probe(image_size, channels)
    positions = np.unique(np.linspace(0, len(files) - 1, min(NUM_PROBED, len(files))).astype(int))
    sizes: list[tuple[int, int]] = []
    first_of: dict[int, str] = {}
    for position in positions:
        path = files[position].file.path
        try:
            with bombs_are_errors():
                size, native_channels = image_header(source.read(path))
        except (UnusableImageError, *READ_ERRORS):
            continue  # the full pass counts and names it
        except DatasetError as error:
            raise DatasetError(f"{source.name_of(path)}: {error.message}", fix=error.fix) from error
        sizes.append(size)
        first_of.setdefault(native_channels, path)
    if channels is None:
        _check_not_mixed(source, first_of)
        channels = next(iter(first_of), 3)
    return Probe(image_size or default_image_size(sizes), channels)


def default_image_size(sizes: Sequence[tuple[int, int]]) -> int:
    """``sizes`` are (width, height) in pixels."""
    if not sizes:
        return 32
    (width, height) = sizes[0]
    if width == height <= 64 and len(set(sizes)) == 1:
        return width
    return 32 if float(np.median([min(size) for size in sizes])) < 64 else 64


def scan_files(
    source: FileSource,
    files: Sequence[LabelledFile],
    probe: Probe,
    *,
    keep_pixels: bool,
    allow_mixed: bool,
    on_progress: Progress | None = None,
) -> Scan:
    """Decode every file once.

    Raises:
        DatasetError: a decompression bomb, or grey and colour files mixed while ``allow_mixed`` is false.
    """
    size, channels = probe.image_size, probe.channels
    pixels = np.zeros((len(files), size, size, channels), dtype=np.uint8) if keep_pixels else None
    sums = np.zeros((len(files), 2, channels), dtype=np.int64)
    checksums = np.zeros(len(files), dtype=np.uint32)
    native = np.zeros(len(files), dtype=np.int8)
    reasons: dict[int, str] = {}

    def work(chunk: range) -> None:
        decoded = np.zeros((len(chunk), size, size, channels), dtype=np.uint8)
        for row, index in enumerate(chunk):
            image, checksums[index] = read_image(source, files[index].file.path, size, channels)
            if isinstance(image, str):
                reasons[index] = image
            else:
                decoded[row] = image.pixels
                native[index] = image.native_channels
        sums[chunk.start : chunk.stop] = channel_sums(decoded)
        if pixels is not None:
            pixels[chunk.start : chunk.stop] = decoded

    with bombs_are_errors():
        map_chunks(work, len(files), on_progress)
    if not allow_mixed:
        first = {kind: int(np.argmax(native == kind)) for kind in (1, 3) if (native == kind).any()}
        _check_not_mixed(source, {kind: files[index].file.path for kind, index in first.items()})
    return Scan(size, channels, pixels, sums, checksums, dict(sorted(reasons.items())))


def channel_sums(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(N, H, W, C) uint8 to (N, 2, C): sum and sum of squares; exact in any order of adding up."""
    number, height, width, channels = images.shape
    flat = images.reshape(number, height * width, channels).astype(np.float64)
    return np.stack([flat.sum(axis=1), np.einsum("npc,npc->nc", flat, flat)], axis=1).astype(np.int64)


def check_usable(
    scan: Scan, files: Sequence[LabelledFile], classes: Sequence[str], source: FileSource
) -> NDArray[np.int64]:
    """Indices of usable files, when so few are unusable that the rest can stand for the data set.

    Raises:
        DatasetError: more than 10 % are unusable, or a class (of a split) has none left.
    """
    if not scan.reasons:
        return np.arange(len(files))
    shown = "; ".join(f"{source.name_of(files[i].file.path)} ({scan.reasons[i]})" for i in list(scan.reasons)[:3])
    count = len(scan.reasons)
    if count > MAX_SKIPPED_FRACTION * len(files):
        raise DatasetError(
            f"{count} of {len(files)} images cannot be read (at most 10 % are skipped), such as: {shown}",
            fix="replace or remove them; a broken download or copy is the usual cause",
        )
    kept = np.array([index for index in range(len(files)) if index not in scan.reasons], dtype=np.int64)
    left = {(files[i].split, files[i].label) for i in kept}
    for file in files:
        if (file.split, file.label) not in left:
            where = f" in {file.split}" if file.split else ""
            raise DatasetError(
                f"class {classes[file.label]!r}{where} has no readable image left; unreadable: {shown}",
                fix="replace the images, or remove the class",
            )
    _log.warning("%s: skipped %d of %d images that cannot be read: %s", source.origin, count, len(files), shown)
    return kept


def _check_not_mixed(source: FileSource, first_of: Mapping[int, str]) -> None:
    if len(first_of) > 1:
        raise DatasetError(
            f"grey and colour images are mixed: {source.name_of(first_of[1])} is grey, "
            f"{source.name_of(first_of[3])} is colour",
            fix=CHANNELS_FIX,
        )
