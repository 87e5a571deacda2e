from __future__ import annotations

from pathlib import Path

import pytest

from hwautoml.errors import RunFolderError
from hwautoml.pipeline.tables.shipped_records import take_over_shipped_records
from hwautoml.schedules.records import Record, Records
from hwautoml.schedules.tiling import Tiling
from hwautoml.store.table_library import RECORDS_FILE, TableLibrary

FAST, SLOW = Record("conv", Tiling(), 3.0, num_tried=2), Record("conv", Tiling(rows=2), 9.0, num_tried=2)


def records(path: Path, **entries: Record) -> Path:
    Records(path, {"device": entries}).save()
    return path


def test_shipped_records_are_found_like_shipped_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer release may ship more than the one whose records were taken over; better ones of one's own stay."""
    monkeypatch.chdir(tmp_path)
    library = TableLibrary(tmp_path / "own")
    shipped = records(tmp_path / "profiles" / "cpu" / RECORDS_FILE, aa=SLOW)
    assert Records.load(take_over_shipped_records("cpu", library)).by_target["device"] == {"aa": SLOW}
    records(library.records_path("cpu"), aa=FAST)
    records(shipped, aa=SLOW, bb=SLOW)
    assert Records.load(take_over_shipped_records("cpu", library)).by_target["device"] == {"aa": FAST, "bb": SLOW}
    shipped.write_text("{")
    with pytest.raises(RunFolderError, match="profiles/cpu"):
        take_over_shipped_records("cpu", library)
