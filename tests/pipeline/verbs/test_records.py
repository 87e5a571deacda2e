"""What the tuner recorded: shown, and merged with what others recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwautoml.errors import RunFolderError
from hwautoml.pipeline import inspect_records, merge_records
from hwautoml.schedules.records import Record, Records
from hwautoml.schedules.tiling import Tiling

FAST, SLOW = Record("conv", Tiling(), 3.0, num_tried=2), Record("conv", Tiling(rows=2), 9.0, num_tried=2)


def records(path: Path, **entries: Record) -> Path:
    Records(path, {"device": entries}).save()
    return path


def test_merging_keeps_the_better_record(tmp_path: Path) -> None:
    mine = records(tmp_path / "mine.json", aa=SLOW, bb=FAST)
    other = records(tmp_path / "other.json", aa=FAST, bb=SLOW, cc=SLOW)
    result = merge_records([other], records=mine)
    assert Records.load(mine).by_target == {"device": {"aa": FAST, "bb": FAST, "cc": SLOW}}
    assert result.num_before == 2 and result.devices[0].num_functions == 3
    assert result.to_json()["merged"] == [str(other)]


def test_inspecting_shows_the_slowest(tmp_path: Path) -> None:
    found = inspect_records(records=records(tmp_path / "mine.json", aa=FAST, bb=SLOW))
    (device,) = found.devices
    assert [function.time_us for function in device.slowest] == [9.0, 3.0] and device.num_trials == 4
    assert set(found.to_json()) == {"records", "devices"}


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="nothing is tuned yet\n  fix: hwautoml tune --target rpi4"):
        inspect_records("rpi4", profiles_dir=tmp_path)
    with pytest.raises(RunFolderError, match="does not exist"):
        merge_records([tmp_path / "none.json"], profiles_dir=tmp_path)
