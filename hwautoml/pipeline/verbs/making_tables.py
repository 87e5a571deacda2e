"""Verbs ``tables estimate``, ``export`` and ``import``: latency tables where hwautoml cannot measure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hwautoml.core.table_facts import TableFacts
from hwautoml.errors import InvalidValueError
from hwautoml.pipeline.tables.by_hand import NetworksToTime, table_from_csv, write_networks
from hwautoml.pipeline.tables.wanted import save_and_describe, wanted_table


def estimate_table(
    target: str = "cpu",
    *,
    space: str = "mobile",
    image_size: int | None = None,
    channels: int | None = None,
    runtime: str = "auto",
    threads: int | None = None,
    batch: int = 1,
    precision: str = "fp32",
    like: Sequence[str | Path] | None = None,
    out: Path | None = None,
    targets_dir: Path | None = None,
    profiles_dir: Path | None = None,
) -> TableFacts:
    """A table of which nothing was measured: a roofline from the target's datasheet.

    With ``like`` it is the tables of those targets (or table files), at their middle level; until there is a better
    one, it is then the target's table. Both are good for ranking and off by a factor in level.

    Raises:
        InvalidValueError: an unknown space, runtime, precision or size.
        RunFolderError: a sibling has no table, or a table with measurements would be replaced.
    """
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
    )
    return save_and_describe(wanted.prior(like), wanted.few_shot_path if like else wanted.estimated_path)


def export_networks(
    folder: str | Path,
    *,
    target: str = "cpu",
    space: str = "mobile",
    image_size: int | None = None,
    channels: int | None = None,
    runtime: str = "auto",
    threads: int | None = None,
    batch: int = 1,
    precision: str = "fp32",
    like: Sequence[str | Path] | None = None,
    measurements: int = 10,
    seed: int = 0,
    targets_dir: Path | None = None,
    profiles_dir: Path | None = None,
) -> NetworksToTime:
    """Write the networks that tell most about a device, to be timed there by hand, and a CSV to fill in.

    ``like`` is what ``import_table`` will start from. The README in ``folder`` says how to time, and the command
    (``next``) that reads the CSV back.

    Raises:
        InvalidValueError: an unknown space, runtime, precision or size, or no networks to measure.
        RunFolderError: ``folder`` holds latencies that were filled in; nothing is overwritten.
    """
    if measurements < 1:
        raise InvalidValueError(f"measurements: must be at least 1, got {measurements}", fix="measurements=10")
    wanted = wanted_table(
        target,
        space,
        image_size=image_size,
        channels=channels,
        runtime=runtime,
        threads=threads,
        batch=batch,
        precision=precision,
        out=None,
        targets_dir=targets_dir,
        profiles_dir=profiles_dir,
    )
    flags = {"--like": ",".join(map(str, like or ())), "--targets-dir": targets_dir, "--profiles-dir": profiles_dir}
    return write_networks(wanted, wanted.prior(like), measurements, Path(folder), flags=flags, seed=seed)


def import_table(
    csv: str | Path,
    *,
    target: str = "cpu",
    space: str = "mobile",
    image_size: int | None = None,
    channels: int | None = None,
    runtime: str = "auto",
    threads: int | None = None,
    batch: int = 1,
    precision: str = "fp32",
    like: Sequence[str | Path] | None = None,
    out: Path | None = None,
    targets_dir: Path | None = None,
    profiles_dir: Path | None = None,
) -> TableFacts:
    """The table of a device from latencies that somebody measured on it and wrote into a CSV of ``export_networks``.

    ``like`` names the targets (or table files) to start from; the datasheet where it names none.

    Raises:
        InvalidValueError: an unknown space, runtime, precision or size.
        RunFolderError: a file is damaged, was exported for another table, or has wrong rows: all of them are named.
    """
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
    )
    table = table_from_csv(wanted.prior(like), wanted.space, wanted.identity, Path(csv))
    return save_and_describe(table, wanted.few_shot_path)
