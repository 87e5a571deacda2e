"""Tuning records that ship beside latency tables become the user's own."""

from __future__ import annotations

from pathlib import Path

from hwautoml.schedules.records import Records
from hwautoml.store.table_library import TableLibrary


def take_over_shipped_records(target: str, library: TableLibrary) -> Path:
    """The target's own file of records, after it took over what shipped ones know better or alone.

    To be called once before a target's networks are compiled. Records are filed under target and processor, so that
    those of another processor are never used.

    Raises:
        RunFolderError: one of the files is damaged.
    """
    path, shipped = library.records_path(target), library.shipped_records(target)
    if shipped:
        records = Records.load(path)
        before = {device: dict(entries) for device, entries in records.by_target.items()}
        for file in shipped:
            records.add(Records.load(file))
        if records.by_target != before:
            records.save()
    return path
