"""The room's verb: ``load_dataset``."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from hwautoml.core.finding import worst_first
from hwautoml.core.pixel_rule import FITS, Fit
from hwautoml.core.shown import shown
from hwautoml.core.task import Labels, Task
from hwautoml.datasets.arrays import LabelledArray, fit_images, load_digits_array, load_npz, native_sizes
from hwautoml.datasets.cache import cache_file, load_scan, save_scan
from hwautoml.datasets.choosing import LayoutRequest, choose_layout
from hwautoml.datasets.dataset import ImageDataset, SkippedImage
from hwautoml.datasets.decoding import Progress
from hwautoml.datasets.honest_splits import split_honestly
from hwautoml.datasets.label_table import TABLE_SUFFIXES, Columns
from hwautoml.datasets.layout import Layout
from hwautoml.datasets.looks import looks_of
from hwautoml.datasets.path_pattern import PathPattern
from hwautoml.datasets.pixel_findings import pixel_findings
from hwautoml.datasets.pixels import MemoryPixels, PixelStore, StreamedPixels
from hwautoml.datasets.probing import Probe, choose_fit, default_image_size, probe_files
from hwautoml.datasets.python_sources import array_of, files_of
from hwautoml.datasets.questions import content_findings, file_findings, label_findings
from hwautoml.datasets.scan import Scan, channel_sums, check_usable, scan_files
from hwautoml.datasets.sources import OTHER_SUFFIXES, FileSource, FolderSource, open_source
from hwautoml.datasets.split import Split
from hwautoml.datasets.splitting import Labelling, check_fractions
from hwautoml.errors import DatasetError, InvalidValueError, UnknownNameError
from hwautoml.tasks import DEFAULT, load_task

_log = logging.getLogger(__name__)

BUILT_IN = ("digits",)
MAX_IMAGE_SIZE = 4096


@dataclass(frozen=True)
class _Request:
    task: type[Task]
    layout: LayoutRequest
    fit: Fit | None
    image_size: int | None
    photo_size: int | None
    channels: int | None
    seed: int
    val_fraction: float
    test_fraction: float
    in_memory_limit_bytes: int
    cache_dir: Path | None
    on_progress: Progress | None

    @property
    def split_options(self) -> dict[str, Any]:
        return {"seed": self.seed, "val_fraction": self.val_fraction, "test_fraction": self.test_fraction}


def load_dataset(
    source: Any,
    *,
    task: str = DEFAULT,
    image_size: int | None = None,
    photo_size: int | None = None,
    channels: int | None = None,
    fit: str = "auto",
    label_pattern: str | None = None,
    group: str | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    seed: int = 0,
    val_fraction: float = 0.15,
    test_fraction: float = 0.2,
    is_tolerant: bool = False,
    in_memory_limit_bytes: int = 2 * 1024**3,
    cache_dir: Path | None = None,
    on_progress: Progress | None = None,
) -> ImageDataset:
    """Labelled images from ``digits``, a folder, a .zip of one, a .csv, .tsv or .jsonl that labels files, an .npz
    (x, y), or from Python: a DataFrame, a list of (path, label), a pair (images, labels) of arrays, a Dataset.

    ``task`` says what the labels are: the names of the folders, the table's column, or ``y``.

    A folder holds one sub-folder of images per class, at its top or inside ``train/`` (and ``val/``, ``test/``), or a
    table with a row per image (``path_column``, ``label_column`` where their names are unusual); one wrapping folder
    is allowed. ``label_pattern`` finds labels in paths instead: ``"*/{label}_*.png"``. Missing splits are drawn from
    the training images, stratified, by ``seed``; images of one ``group`` (a column of the table, or a pattern such as
    ``"**/{group}_frame*"``), and copies of one picture, are drawn together.
    Images become squares of ``image_size`` pixels by ``fit``: the centre (crop), all between stripes (pad), all
    squeezed (stretch); auto crops unless that cuts off more than 45 % of half of them. By default the size is the
    native size when all are square, equal and at most 64; else 32 when the median short side is below 64, else 64, or
    ``photo_size`` for photographs, of 128 pixels and more.
    ``channels`` (1 grey, 3 RGB) converts; by default it is 3 as soon as one image is in colour. Sets of more than
    ``in_memory_limit_bytes`` of pixels are decoded batch by batch; the others are kept in ``cache_dir``, when
    given, for the next run. ``on_progress(done, total)`` counts decoded images.

    What is to be said of the images is in ``findings``, and logged where it is a warning; what makes training
    pointless is refused, unless ``is_tolerant``.

    Raises:
        UnknownNameError: there is no such task or fit.
        DatasetError: the images cannot be used; the message names the file or folder and what helps.
        InvalidValueError: an argument is outside what is allowed.
    """
    check_fractions(val_fraction, test_fraction)
    if channels not in (None, 1, 3):
        raise InvalidValueError(f"channels must be 1 (grey), 3 (RGB) or None, got {channels!r}")
    if image_size is not None and not 1 <= image_size <= MAX_IMAGE_SIZE:
        raise InvalidValueError(f"image_size must be 1..{MAX_IMAGE_SIZE} pixels, got {image_size}")
    if fit not in ("auto", *FITS):
        raise UnknownNameError("fit", fit, ("auto", *FITS))
    layout = _layout_request(label_pattern, group, path_column, label_column)
    request = _Request(
        load_task(task),
        layout,
        None if fit == "auto" else cast(Fit, fit),
        image_size,
        photo_size,
        channels,
        seed,
        val_fraction,
        test_fraction,
        in_memory_limit_bytes,
        cache_dir,
        on_progress,
    )
    dataset = _load(source, request)
    for finding in () if is_tolerant else dataset.findings:
        if finding.severity == "refuse":
            raise DatasetError(f"{dataset.name}: {finding.message}", fix=finding.fix)
        if finding.severity == "warn":
            _log.warning("%s: %s", dataset.name, finding.message)
    return dataset


def _load(source: Any, request: _Request) -> ImageDataset:
    if not isinstance(source, str | Path):
        files = files_of(source, request.layout.columns)
        return (
            _from_array(array_of(source, request.task), request)
            if files is None
            else _from_layout(*files, "images", {}, request)
        )
    path = require_source(source)
    if path is None:
        return _from_array(load_digits_array(request.task), request)
    if path.is_file() and path.suffix.lower() == ".npz":
        return _from_array(load_npz(path, request.task), request)
    if path.is_file() and path.suffix.lower() in TABLE_SUFFIXES:
        request = replace(request, layout=replace(request.layout, table=path.name))
        return _from_files(FolderSource(path.parent), path.resolve(), request)
    return _from_files(open_source(path), path.resolve(), request)


def _layout_request(
    label_pattern: str | None, group: str | None, path_column: str | None, label_column: str | None
) -> LayoutRequest:
    """Raises InvalidValueError for patterns that are none, or lack the name that they are for."""
    label = None if label_pattern is None else PathPattern(label_pattern)
    if label is not None and "label" not in label.names:
        raise InvalidValueError(f"the pattern {label_pattern!r} names no {{label}}", fix="'{label}/**', say")
    is_pattern = group is not None and "{" in group
    groups = PathPattern(group) if group is not None and is_pattern else None
    if groups is not None and "group" not in groups.names:
        raise InvalidValueError(f"the pattern {group!r} names no {{group}}", fix="'**/{group}_*', say")
    columns = Columns(path_column, label_column, None if is_pattern else group)
    return LayoutRequest(columns=columns, label_pattern=label, group_pattern=groups)


def require_source(source: str | Path) -> Path | None:
    """Where the images lie; None for a built-in set. Looks at nothing else.

    Raises:
        DatasetError: there is nothing of that name.
    """
    if isinstance(source, str) and source in BUILT_IN:  # Path("digits") and "./digits" mean a folder
        return None
    path = Path(source).expanduser()
    if not path.exists():
        raise DatasetError(
            f"no such file or folder: {path}", fix=f"check the path, or use a built-in set: {', '.join(BUILT_IN)}"
        )
    return path


def _from_array(array: LabelledArray, request: _Request) -> ImageDataset:
    image_size = request.image_size or default_image_size(native_sizes(array.images), request.photo_size)
    channels = request.channels or array.images.shape[-1]
    rule = replace(array.rule, fit=request.fit or choose_fit(native_sizes(array.images)))
    pixels = fit_images(array.images, image_size, channels, rule)
    sums = np.concatenate([channel_sums(pixels[start : start + 4096]) for start in range(0, len(pixels), 4096)])
    names = [f"image {index}" for index in range(len(pixels))]
    strata, strata_names = array.task.strata(array.labels)
    splits, findings = split_honestly(
        looks_of(pixels),
        Labelling(strata, [""] * len(names), strata_names, np.arange(len(names)), array.name),
        names,
        [""] * len(names),
        **request.split_options,
    )
    store = MemoryPixels(pixels)
    dataset = _assemble(array.name, array.task, store, sums, array.labels, splits, (), array.fingerprint)
    findings += content_findings(names, sums, image_size**2, strata, strata_names)
    findings += label_findings(_counts(strata, strata_names), dataset.test.num_images)
    return replace(dataset, pixel_rule=rule, findings=worst_first(findings), files=tuple(names))


def _from_files(source: FileSource, path: Path, request: _Request) -> ImageDataset:
    listing = source.listing()
    layout = choose_layout(source, listing, request.layout)
    left_out = dict.fromkeys(layout.loose, "belongs to no class")
    left_out |= {path: OTHER_SUFFIXES[Path(path).suffix.lower()] for path in listing.others}
    dataset = _from_layout(source, layout, str(path), left_out, request)
    return replace(dataset, name=path.stem)


def _from_layout(
    source: FileSource, layout: Layout, origin: str, left_out: dict[str, str], request: _Request
) -> ImageDataset:
    """``origin`` tells sources apart in the cache; ``left_out``: why other pictures have no part in this, by path."""
    scan = _scan(source, origin, layout, request)
    usable = check_usable(scan, layout.files, layout.classes, source)
    texts = np.array([layout.classes[file.label] for file in layout.files])
    task, labels = request.task.from_labels(texts, f"what labels the images of {source.origin}")
    strata, strata_names = task.strata(labels)
    names = [shown(entry.file.path) for entry in layout.files]
    given = [layout.files[i].split for i in usable]
    splits, findings = split_honestly(
        scan.looks.at(usable),
        Labelling(strata[usable], given, strata_names, np.arange(len(usable)), source.origin),
        [names[i] for i in usable],
        [layout.files[i].group for i in usable],
        **request.split_options,
    )
    if scan.pixels is not None:
        store: PixelStore = MemoryPixels(scan.pixels)
    else:
        paths = tuple(entry.file.path for entry in layout.files)
        store = StreamedPixels(source, paths, scan.probe.image_size, scan.probe.channels, scan.probe.rule)
    broken = {names[i]: reason for i, reason in scan.reasons.items()}
    dataset = _assemble(
        origin,
        task,
        store,
        scan.sums,
        labels,
        {split: usable[indices] for split, indices in splits.items()},
        tuple(SkippedImage(path, reason) for path, reason in (broken | left_out).items()),
        _fingerprint(layout, scan),
    )
    size, known = scan.probe.image_size, [names[i] for i in usable]
    findings += [
        *layout.findings,
        *pixel_findings(names, scan.facts, scan.probe),
        *content_findings(known, scan.sums[usable], size**2, strata[usable], strata_names),
        *label_findings(_counts(strata[usable], strata_names), dataset.test.num_images),
        *file_findings(broken, left_out, scan.facts, scan.probe.rule.fit),
    ]
    return replace(dataset, pixel_rule=scan.probe.rule, findings=worst_first(findings), files=tuple(names))


def _counts(labels: NDArray[np.int64], classes: Sequence[str]) -> dict[str, int]:
    return dict(zip(classes, np.bincount(labels, minlength=len(classes)).tolist(), strict=True))


def _scan(source: FileSource, origin: str, layout: Layout, request: _Request) -> Scan:
    """From the cache when there is one."""
    cached = None
    if request.cache_dir is not None:
        settings = {
            "image_size": request.image_size,
            **({} if request.photo_size is None else {"photo_size": request.photo_size}),
            "channels": request.channels,
            "fit": request.fit,
            "in_memory_limit_bytes": request.in_memory_limit_bytes,
        }
        cached = cache_file(request.cache_dir, origin, layout.files, settings)
        scan = load_scan(cached)
        if scan is not None:
            return scan
    probe = probe_files(source, layout.files, request.image_size, request.channels, request.fit, request.photo_size)
    scan = _decode_all(source, layout, probe, request)
    if request.channels is None and probe.channels == 1 and any(f is not None and f.channels == 3 for f in scan.facts):
        scan = _decode_all(source, layout, replace(probe, channels=3), request)  # the sample had no colour in it
    if cached is not None:
        save_scan(cached, scan)
    return scan


def _decode_all(source: FileSource, layout: Layout, probe: Probe, request: _Request) -> Scan:
    num_bytes = len(layout.files) * probe.image_size**2 * probe.channels
    keep_pixels = num_bytes <= request.in_memory_limit_bytes
    return scan_files(source, layout.files, probe, keep_pixels=keep_pixels, on_progress=request.on_progress)


def _assemble(
    name: str,
    task: Task,
    store: PixelStore,
    sums: NDArray[np.int64],
    labels: Labels,
    splits: dict[str, NDArray[np.int64]],
    skipped: tuple[SkippedImage, ...],
    fingerprint: str,
) -> ImageDataset:
    """``sums`` (num_images, 2, C), ``labels`` (num_images, ...) and the indices in ``splits`` address the store."""
    _, image_size, _, channels = store.shape
    mean, std = _mean_and_std(sums[splits["train"]], image_size)
    train, val, test = (
        Split(split, torch.from_numpy(labels[splits[split]]), torch.from_numpy(splits[split]), store)
        for split in ("train", "val", "test")
    )
    return ImageDataset(name, task, image_size, channels, train, val, test, skipped, fingerprint, mean, std)


def _mean_and_std(sums: NDArray[np.int64], image_size: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per channel in [0, 1] units, from (num_images, 2, C) sums; std is at least one grey level."""
    count = len(sums) * image_size**2
    totals: Sequence[Sequence[int]] = sums.sum(axis=0).tolist()
    mean = [total / count for total in totals[0]]
    variance = [max(square / count - m * m, 0.0) for square, m in zip(totals[1], mean, strict=True)]
    return tuple(m / 255 for m in mean), tuple(max(math.sqrt(v), 1.0) / 255 for v in variance)


def _fingerprint(layout: Layout, scan: Scan) -> str:
    """From class, split, file name and content: not from where the source lies or how it is packed."""
    digest = hashlib.sha256()
    for entry, checksum in zip(layout.files, scan.checksums.tolist(), strict=True):
        name = entry.file.path.rpartition("/")[2]
        digest.update(
            f"{entry.split}\0{layout.classes[entry.label]}\0{name}\0{checksum}\n".encode(errors="surrogateescape")
        )
    return digest.hexdigest()[:16]
