"""A run folder opened: for a new run, for one that goes on, or for a verb that looks at it again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hwautoml.core.board import HERE, Board
from hwautoml.core.progress import OnProgress, Progress
from hwautoml.core.resources import target_folders
from hwautoml.core.target import Target, load_target
from hwautoml.errors import RunFolderError
from hwautoml.pipeline.runs.context import Devices, RunContext
from hwautoml.pipeline.runs.journal import Journal
from hwautoml.pipeline.runs.outcomes import Loaded, Trained
from hwautoml.pipeline.runs.settings import RunSettings
from hwautoml.store.run_store import RunStore

if TYPE_CHECKING:
    from hwautoml.datasets import ImageDataset


@contextmanager
def reopened(
    folder: str | Path, on_progress: OnProgress, targets_dir: Path | None = None, profiles_dir: Path | None = None
) -> Iterator[RunContext]:
    """A run whose supernet is trained.

    Raises:
        RunFolderError: no run there, or it is not trained yet.
    """
    with Journal(RunStore(Path(folder))) as journal:
        settings = journal.settings
        if settings is None:
            raise RunFolderError(f"{folder} holds no started run", fix="hwautoml run DATA --out FOLDER")
        if journal.outcome(Trained) is None:
            raise RunFolderError(
                f"{folder}: its supernet is not trained yet", fix=f"hwautoml run --resume --out {folder}"
            )
        target = load_target(settings.target, target_folders(targets_dir))
        with opened(journal, settings, target, HERE, on_progress, profiles_dir) as run:
            yield run


@contextmanager
def opened(
    journal: Journal,
    settings: RunSettings,
    target: Target,
    board: Board,
    on_progress: OnProgress,
    profiles_dir: Path | None = None,
) -> Iterator[RunContext]:
    """With its images loaded; devices that were opened for it are closed at the end.

    Raises:
        DatasetError: the images cannot be used.
        RunFolderError: they changed since the run was started.
    """
    from hwautoml.spaces import load_elastic_space

    dataset = _load(journal, settings, on_progress)
    if journal.dataset_fingerprint(dataset.fingerprint) != dataset.fingerprint:
        raise RunFolderError(
            f"the images in {settings.source} changed since this run was started", fix="start a new run: another --out"
        )
    if journal.outcome(Loaded) is None:
        counts = {split: getattr(dataset, split).num_images for split in ("train", "val", "test")}
        journal.finish(Loaded(counts, len(dataset.skipped)), journal.elapsed_sec)
    space = load_elastic_space(
        settings.space, image_size=dataset.image_size, channels=dataset.channels, num_outputs=dataset.task.num_outputs
    )
    with Devices(target, board) as devices:
        yield RunContext(journal, settings, target, dataset, space, devices, on_progress, profiles_dir)


def _load(journal: Journal, settings: RunSettings, on_progress: OnProgress) -> ImageDataset:
    from hwautoml.datasets import load_dataset

    def listen(done: int, total: int, *_: object) -> None:
        on_progress(Progress("data", min(done / max(total, 1), 0.999), f"{done:,} of {total:,} images"))

    on_progress(Progress("data", 0.0, settings.source))
    dataset = load_dataset(
        settings.source,
        task=settings.task,
        image_size=settings.image_size,
        channels=settings.channels,
        fit=settings.fit,
        label_pattern=settings.label_pattern,
        group=settings.group,
        path_column=settings.path_column,
        label_column=settings.label_column,
        seed=settings.seed,
        cache_dir=journal.folder / "cache",
        on_progress=listen,
    )
    skipped = f", {len(dataset.skipped)} skipped" if dataset.skipped else ""
    text = f"{dataset.train.num_images:,} training images of {dataset.task.summary}{skipped}"
    on_progress(Progress("data", 1.0, text))
    return dataset
