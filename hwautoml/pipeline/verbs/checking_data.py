"""Verb ``check``: what is there to know of labelled images before anything is trained on them?"""

from __future__ import annotations

import io
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwautoml.core.data_check import DataCheck, ShownPicture
from hwautoml.core.finding import Finding, worst_first
from hwautoml.core.progress import OnProgress, Progress, silent
from hwautoml.core.storage import write_atomically
from hwautoml.errors import DatasetError

if TYPE_CHECKING:
    from hwautoml.datasets import ImageDataset

SPLITS = ("train", "val", "test")


def check(
    source: str | Path,
    *,
    task: str = "classification",
    image_size: int | None = None,
    channels: int | None = None,
    fit: str = "auto",
    label_pattern: str | None = None,
    group: str | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    seed: int = 0,
    page: Path | None = None,
    strict: bool = False,
    on_progress: OnProgress = silent,
) -> DataCheck:
    """Read all images, split them as a run would, and say what was found; ``page`` is an HTML file to write, with
    pictures. With ``strict``, what is warned of makes them unusable, too.

    The arguments are those of ``load_dataset``. Images that cannot be used at all are a finding, too.

    Raises:
        InvalidValueError: an argument is outside what is allowed.
    """
    from hwautoml.datasets import doubts, load_dataset

    started = time.monotonic()

    def listen(done: int, total: int, *_: object) -> None:
        on_progress(Progress("data", min(done / max(total, 1), 0.999), f"{done:,} of {total:,} images"))

    try:
        dataset = load_dataset(
            source,
            task=task,
            image_size=image_size,
            channels=channels,
            fit=fit,
            label_pattern=label_pattern,
            group=group,
            path_column=path_column,
            label_column=label_column,
            seed=seed,
            is_tolerant=True,
            on_progress=listen,
        )
    except DatasetError as error:
        unusable = Finding("refuse", "unusable", error.message, error.fix or "")
        return _finished(DataCheck(str(source), {}, 0, 0, (unusable,), 0.0, strict), None, page, started)
    on_progress(Progress("data", 1.0))
    findings = worst_first([*dataset.findings, *doubts(dataset)])
    found = DataCheck(str(source), _counts(dataset), dataset.image_size, dataset.channels, findings, 0.0, strict)
    return _finished(found, dataset, page, started)


def _finished(found: DataCheck, dataset: ImageDataset | None, page: Path | None, started: float) -> DataCheck:
    from hwautoml.reports.data_page import data_page

    if page is not None:
        names = {name for finding in found.findings for group in finding.examples for name in group}
        pictures = {} if dataset is None else _pictures(dataset, names)
        write_atomically(page, data_page(found, pictures))
    return replace(found, seconds=time.monotonic() - started, page=None if page is None else str(page))


def require_usable(found: DataCheck) -> None:
    """Raises DatasetError for images that a run would refuse, or (strict) warn of."""
    if found.objections:
        worst, others = found.objections[0], len(found.objections) - 1
        more = f" (and {others} more)" if others else ""
        raise DatasetError(f"{found.source}: {worst.message}{more}", fix=worst.fix or None)


def _counts(dataset: ImageDataset) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for split in SPLITS:
        strata, names = dataset.task.strata(getattr(dataset, split).labels.numpy())
        names = dataset.classes if len(names) == len(dataset.classes) else names
        for name, number in zip(names, np.bincount(strata, minlength=len(names)).tolist(), strict=True):
            counts.setdefault(name, {})[split] = number
    return counts


def _pictures(dataset: ImageDataset, names: Iterable[str]) -> dict[str, ShownPicture]:
    """As training sees them, with class and split below; those that are in no split are left out."""
    from PIL import Image

    wanted = set(names)
    shown = {}
    for split in SPLITS:
        part = getattr(dataset, split)
        for position, index in enumerate(part.indices.tolist()):
            name = dataset.files[index]
            if name in wanted:
                (pixels,) = part.raw([position])
                file = io.BytesIO()
                Image.fromarray(pixels[:, :, 0] if dataset.channels == 1 else pixels).save(file, "PNG")
                shown[name] = ShownPicture(
                    file.getvalue(), f"{dataset.task.label_text(part.labels[position].numpy())}, {split}"
                )
    return shown
