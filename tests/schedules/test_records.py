"""Schedule records: what is written comes back; what is damaged is named and left alone."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwautoml.errors import InvalidValueError, RunFolderError
from hwautoml.schedules.records import FORMAT, Record, Records
from hwautoml.schedules.tiling import PADDINGS, Tiling

TARGET = '{"kind":"llvm","mcpu":"znver4"}'
COUNTS = st.integers(1, 64)
TILINGS = st.builds(
    lambda vectors, lanes, **rest: Tiling(channels=vectors * lanes, lanes=lanes, **rest),
    vectors=COUNTS,
    lanes=COUNTS,
    rows=COUNTS,
    columns=COUNTS,
    channels_outside=st.booleans(),
    unroll=COUNTS,
    padding=st.sampled_from(PADDINGS),
)
RECORDS = st.builds(
    Record,
    name=st.text(max_size=20),
    tiling=st.none() | TILINGS,
    time_us=st.just(math.inf) | st.floats(0.01, 1e6),
    num_tried=st.integers(0, 1000),
    crashed=st.lists(TILINGS, max_size=2).map(tuple),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=st.dictionaries(st.text("0123456789abcdef", min_size=1), RECORDS, max_size=4))
def test_round_trip(tmp_path: Path, entries: dict[str, Record]) -> None:
    path = tmp_path / "records.json"
    path.unlink(missing_ok=True)
    records = Records(path)
    for key, record in entries.items():
        records.put(TARGET, key, record)
    records.save()
    again = Records.load(path)
    assert again.by_target.get(TARGET, {}) == entries
    assert set(again.tilings(TARGET)) == {key for key, item in entries.items() if item.tiling}


def test_saving_keeps_what_another_tuner_added(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "records.json"
    record = Record("conv", Tiling(), 3.0, num_tried=2)
    one, other = Records.load(path), Records.load(path)
    one.put(TARGET, "aa", record)
    one.save()
    other.put(TARGET, "bb", record)
    other.put(TARGET, "aa", replace(record, num_tried=1, time_us=9.0))
    other.save()
    assert Records.load(path).by_target == {TARGET: {"aa": record, "bb": record}}
    assert [file.name for file in path.parent.iterdir()] == ["records.json"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"format": "something else", "records": {}}',
        json.dumps({"format": FORMAT, "records": {TARGET: {"aa": {"name": "x"}}}}),
        json.dumps({"format": FORMAT, "records": {TARGET: {"aa": 3}}}),
    ],
)
def test_damaged_file_is_named_and_never_overwritten(tmp_path: Path, text: str) -> None:
    path = tmp_path / "records.json"
    path.write_text(text)
    with pytest.raises(RunFolderError, match=r"records\.json"):
        Records.load(path)
    records = Records(path)
    records.put(TARGET, "aa", Record("conv"))
    with pytest.raises(RunFolderError):
        records.save()
    assert path.read_text() == text


@pytest.mark.parametrize(
    "change",
    [{"rows": 0}, {"lanes": 3}, {"padding": "somewhere"}, {"rows": "1"}, {"extra": 1}],
)
def test_tiling_from_json_is_checked(change: dict[str, object]) -> None:
    with pytest.raises(InvalidValueError, match="not a tiling"):
        Tiling.from_json({**Tiling().to_json(), "channels": 16, "lanes": 16, **change})


def test_candidates_of_other_schedules_are_tried_again() -> None:
    written = Record("conv", Tiling(rows=2), 3.0, num_tried=7).to_json()
    assert Record.from_json(written).num_tried == 7
    older = Record.from_json({**written, "schedules": 1})
    assert (older.num_tried, older.tiling, older.time_us) == (0, Tiling(rows=2), 3.0)
    del written["schedules"]
    assert Record.from_json(written).num_tried == 0
