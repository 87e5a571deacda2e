"""Verb ``profile``: measure a latency table on the device itself."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from hwautoml.core.board import Board
from hwautoml.core.duration import require_duration
from hwautoml.core.progress import OnProgress, Progress, silent
from hwautoml.core.table_facts import TableFacts
from hwautoml.errors import InvalidValueError
from hwautoml.pipeline.connecting import device_for
from hwautoml.pipeline.tables.measuring import measure_table
from hwautoml.pipeline.tables.shipped_records import take_over_shipped_records
from hwautoml.pipeline.tables.wanted import WantedTable, wanted_table

DEFAULT_MEASUREMENTS = 10

_log = logging.getLogger(__name__)


def profile(
    target: str = "cpu",
    *,
    space: str = "mobile",
    image_size: int | None = None,
    channels: int | None = None,
    runtime: str = "auto",
    threads: int | None = None,
    batch: int = 1,
    precision: str = "fp32",
    device: str | None = None,
    tracker: str | None = None,
    key: str | None = None,
    like: Sequence[str | Path] | None = None,
    measurements: int | None = None,
    out: Path | None = None,
    budget_sec: float = 300.0,
    seed: int = 0,
    targets_dir: Path | None = None,
    profiles_dir: Path | None = None,
    on_progress: OnProgress = silent,
) -> TableFacts:
    """Measure what each layer of a space costs on a target: here, or on the board at ``device`` or ``tracker``.

    Every layer is measured, or as many as fit into ``budget_sec``. With ``like`` or ``measurements`` only so many whole
    networks are, which correct a prior: the tables of the targets (or the table files) that ``like`` names, or the
    datasheet where it names none. Interrupted, either goes on where it was; finished, a larger ``budget_sec`` or more
    ``measurements`` add to it.

    The result's ``path`` is the table's file (``out``, by default in ``profiles_dir`` or the user's configuration
    folder); ``core.latency_file.load`` reads it. Without any measurement: ``estimate_table``; by hand:
    ``export_networks``.

    Raises:
        InvalidValueError: an unknown space, runtime, precision or size, or no networks to measure.
        TargetUnavailableError: code cannot be run on the target from this machine.
        RunFolderError: a table or journal is damaged or does not fit; files are left as they are.
    """
    if measurements is not None and measurements < 1:
        raise InvalidValueError(
            f"measurements: must be at least 1, got {measurements}",
            fix="hwautoml tables estimate makes a table without any",
        )
    require_duration(budget_sec, "budget_sec")
    wanted = wanted_table(
        target,
        space,
        image_size=image_size,
        channels=channels,
        runtime=runtime,
        threads=threads,
        batch=batch,
        precision=precision,
        out=out,
        targets_dir=targets_dir,
        profiles_dir=profiles_dir,
        board=Board(device, tracker, key),
    )
    num_networks = measurements or (DEFAULT_MEASUREMENTS if like else 0)  # 0: layers
    return _measured(wanted, like, num_networks, budget_sec, seed, on_progress)


def _measured(
    wanted: WantedTable,
    like: Sequence[str | Path] | None,
    num_networks: int,
    budget_sec: float,
    seed: int,
    on_progress: OnProgress,
) -> TableFacts:
    """Measures every layer, or so many networks."""
    path, prior = (wanted.few_shot_path, wanted.prior(like)) if num_networks else (wanted.path, None)
    with device_for(wanted.target, wanted.identity.runtime, wanted.board, all_boards=True) as opened:
        table = measure_table(
            wanted.space,
            wanted.target,
            wanted.identity,
            path,
            opened,
            records=take_over_shipped_records(wanted.target.name, wanted.library),
            budget_sec=budget_sec,
            prior=prior,
            num_networks=num_networks,
            seed=seed,
            on_progress=on_progress,
        )
    if len(table.observations) < num_networks:
        _log.warning(
            "%d of %d networks were measured; the same command with a larger --budget goes on",
            len(table.observations),
            num_networks,
        )
    on_progress(Progress("profile", 1.0))
    return TableFacts.of(table, path)
