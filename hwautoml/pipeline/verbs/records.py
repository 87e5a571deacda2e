"""Verbs ``records inspect`` and ``merge``: what the tuner has recorded of a device's kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwautoml.core import json_form
from hwautoml.core.resources import target_folders
from hwautoml.core.target import load_target
from hwautoml.errors import RunFolderError
from hwautoml.pipeline.tables.shipped_records import take_over_shipped_records
from hwautoml.schedules.records import Record, Records
from hwautoml.store.table_library import TableLibrary

NUM_LISTED = 10


@dataclass(frozen=True)
class RecordedFunction:
    """``time_us``: the fastest of the ``num_tried`` candidates that were timed."""

    function: str
    time_us: float
    num_tried: int


@dataclass(frozen=True)
class RecordedDevice:
    """What is recorded for one target and processor; ``slowest`` are the functions that take longest."""

    device: str
    num_functions: int
    num_trials: int
    num_crashed: int
    slowest: tuple[RecordedFunction, ...]

    @classmethod
    def of(cls, device: str, records: Sequence[Record]) -> RecordedDevice:
        timed = sorted((r for r in records if r.tiling is not None), key=lambda record: -record.time_us)
        return cls(
            device,
            len(timed),
            num_trials=sum(record.num_tried for record in records),
            num_crashed=sum(len(record.crashed) for record in records),
            slowest=tuple(RecordedFunction(r.name, r.time_us, r.num_tried) for r in timed[:NUM_LISTED]),
        )


@dataclass(frozen=True)
class RecordsFacts:
    """What a file of records holds, and where it was just merged, what was added to its ``num_before`` records."""

    records: Path
    devices: tuple[RecordedDevice, ...]
    merged: tuple[Path, ...] | None = None
    num_before: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in json_form.to_json(self).items() if value is not None}


def inspect_records(
    target: str = "cpu",
    *,
    records: Path | None = None,
    targets_dir: Path | None = None,
    profiles_dir: Path | None = None,
) -> RecordsFacts:
    """Per device: how many functions are recorded, after how many trials, and the ten slowest.

    ``records`` is the file, by default the target's own, with what ships for it.

    Raises:
        RunFolderError: the file does not exist or is damaged.
    """
    path = completed_records(target, records, targets_dir, profiles_dir)
    if not path.is_file():
        raise RunFolderError(f"{path} does not exist: nothing is tuned yet", fix=f"hwautoml tune --target {target}")
    return RecordsFacts(path, _devices(Records.load(path)))


def merge_records(
    files: Sequence[str | Path],
    *,
    target: str = "cpu",
    records: Path | None = None,
    targets_dir: Path | None = None,
    profiles_dir: Path | None = None,
) -> RecordsFacts:
    """Add what ``files`` know better or alone to a target's records: one of more trials wins, then the faster one.

    ``records`` is the file that is added to, by default the target's own.

    Raises:
        RunFolderError: a file is damaged or does not exist.
        StorageError: the file of records cannot be written.
    """
    path = completed_records(target, records, targets_dir, profiles_dir)
    merged = Records.load(path)
    before = sum(map(len, merged.by_target.values()))
    for file in map(Path, files):
        if not file.is_file():
            raise RunFolderError(f"{file} does not exist", fix="name files that hwautoml tune wrote")
        merged.add(Records.load(file))
    merged.save()
    return RecordsFacts(path, _devices(merged), tuple(map(Path, files)), before)


def completed_records(target: str, records: Path | None, targets_dir: Path | None, profiles_dir: Path | None) -> Path:
    """``records`` where it is given, else the target's own, after it took over those that ship."""
    found = load_target(target, target_folders(targets_dir))
    return records if records is not None else take_over_shipped_records(found.name, TableLibrary(profiles_dir))


def _devices(records: Records) -> tuple[RecordedDevice, ...]:
    found = sorted(records.by_target.items())
    return tuple(RecordedDevice.of(device, list(entries.values())) for device, entries in found)
