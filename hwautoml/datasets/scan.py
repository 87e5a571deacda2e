"""One pass over all files: decode, checksum, and find what cannot be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwautoml.datasets.decoding import PictureFacts, Progress, map_chunks, quiet_decoding, read_image
from hwautoml.datasets.layout import LabelledFile
from hwautoml.datasets.looks import Looks, looks_of
from hwautoml.datasets.probing import Probe
from hwautoml.datasets.sources import FileSource
from hwautoml.errors import DatasetError

MAX_SKIPPED_FRACTION = 0.1


@dataclass(frozen=True, eq=False)
class Scan:
    """What the pass found; ``pixels`` (num_files, S, S, C) uint8 is None when the set is to be streamed.

    ``reasons`` says by file index why a file is unusable, whose ``facts`` are None. ``sums`` (num_files, 2, C) int64
    holds every image's sum and sum of squares per channel. ``checksums`` (num_files,) are CRC-32 of the files.
    """

    probe: Probe
    pixels: NDArray[np.uint8] | None
    sums: NDArray[np.int64]
    checksums: NDArray[np.uint32]
    looks: Looks
    facts: tuple[PictureFacts | None, ...]
    reasons: Mapping[int, str]


def scan_files(
    source: FileSource,
    files: Sequence[LabelledFile],
    probe: Probe,
    *,
    keep_pixels: bool,
    on_progress: Progress | None = None,
) -> Scan:
    """Decode every file once."""
    size, channels, number = probe.image_size, probe.channels, len(files)
    pixels = np.zeros((number, size, size, channels), dtype=np.uint8) if keep_pixels else None
    sums = np.zeros((number, 2, channels), dtype=np.int64)
    checksums = np.zeros(number, dtype=np.uint32)
    looks = Looks.empty(number)
    facts: list[PictureFacts | None] = [None] * number
    reasons: dict[int, str] = {}

    def work(chunk: range) -> None:
        decoded = np.zeros((len(chunk), size, size, channels), dtype=np.uint8)
        for row, index in enumerate(chunk):
            image, checksums[index] = read_image(source, files[index].file.path, size, channels, probe.rule)
            if isinstance(image, str):
                reasons[index] = image
            else:
                decoded[row] = image.pixels
                facts[index] = image.facts
        sums[chunk.start : chunk.stop] = channel_sums(decoded)
        looks.put(chunk.start, looks_of(decoded))
        if pixels is not None:
            pixels[chunk.start : chunk.stop] = decoded

    with quiet_decoding():
        map_chunks(work, number, on_progress)
    return Scan(probe, pixels, sums, checksums, looks, tuple(facts), dict(sorted(reasons.items())))


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
    return kept
