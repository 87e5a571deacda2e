from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwautoml.errors import RunFolderError
from hwautoml.profilers.hand_measurements import read_measurements, template

FILES = {"aaa": "networks/aaa.onnx", "bbb": "networks/bbb.onnx", "ccc": "networks/ccc.onnx"}


def filled(path: Path, *rows: str, header: str = "architecture_id,file,latency_ms") -> Path:
    path.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    return path


ROWS = ("aaa,networks/aaa.onnx,1.5", "bbb,networks/bbb.onnx,2 2.1 1.9", "ccc,networks/ccc.onnx,3e-1")


def test_a_filled_in_csv_is_read(tmp_path: Path) -> None:
    found = read_measurements(filled(tmp_path / "m.csv", *ROWS[::-1], "", ",,"), FILES)
    assert found == {"aaa": (1.5,), "bbb": (2.0, 2.1, 1.9), "ccc": (0.3,)}
    assert list(found) == list(FILES)


def test_what_a_spreadsheet_saves_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    text = "architecture_id,file,latency_ms\r\n" + "\r\n".join(f'"{row.split(",")[0]}",x, 1.5 ' for row in ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_measurements(path, FILES) == dict.fromkeys(FILES, (1.5,))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("bbb,f,-1", "line 3: latency_ms of bbb must be positive milliseconds, got '-1'"),
        ("bbb,f,0", "line 3: latency_ms of bbb must be positive milliseconds, got '0'"),
        ("bbb,f,2 fast", "line 3: latency_ms of bbb must be positive milliseconds, got 'fast'"),
        ("bbb,f,nan", "line 3: latency_ms of bbb must be positive milliseconds, got 'nan'"),
        ("bbb,f,inf", "got 'inf'"),
        ("bbb,f,", "line 3: latency_ms of bbb is missing"),
        ("bbc,f,1", "line 3: unknown architecture 'bbc'"),
        ("aaa,f,1", "line 3: aaa was on line 2 already"),
        ("bbb,f,1,5", "line 3: 4 fields, expected 3"),
        ("bbb;f;1", "line 3: 1 fields, expected 3"),
    ],
)
def test_a_wrong_row_is_named_by_its_line(tmp_path: Path, wrong: str, message: str) -> None:
    path = filled(tmp_path / "m.csv", ROWS[0], wrong, ROWS[2])
    before = path.read_bytes()
    with pytest.raises(RunFolderError) as error:
        read_measurements(path, FILES)
    assert message in str(error.value) and str(path) in str(error.value)
    assert path.read_bytes() == before


def test_all_wrong_rows_are_named_in_one_error(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError) as error:
        read_measurements(filled(tmp_path / "m.csv", "aaa,f,x", "zzz,f,1", "ccc,f,"), FILES)
    for part in ("line 2: ", "line 3: unknown architecture 'zzz'", "line 4: ", "no row for bbb (networks/bbb.onnx)"):
        assert part in str(error.value)
    with pytest.raises(RunFolderError, match="and 90 more"):
        read_measurements(filled(tmp_path / "m.csv"), {f"n{i}": "f" for i in range(100)})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1 is ''"),
        (b"id;file;ms\n", "line 1 is 'id;file;ms', expected 'architecture_id,file,latency_ms'"),
        (b'architecture_id,file,latency_ms\naaa,"x,1\n', "damaged at line"),
        (b"\xff\xfe\x00", "is no CSV file"),
    ],
)
def test_what_is_no_such_csv_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(content)
    with pytest.raises(RunFolderError, match=message):
        read_measurements(path, FILES)


def test_a_missing_file_says_what_writes_it(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="hwautoml tables export DIR"):
        read_measurements(tmp_path / "m.csv", FILES)


@given(
    st.dictionaries(
        st.text("0123456789abcdef", min_size=12, max_size=12),
        st.lists(st.floats(1e-6, 1e6, allow_nan=False), min_size=1, max_size=5),
        min_size=1,
        max_size=5,
    )
)
def test_a_template_that_is_filled_in_gives_the_samples_back(
    tmp_path_factory: pytest.TempPathFactory, samples: dict[str, list[float]]
) -> None:
    files = {name: f"networks/{name}.onnx" for name in samples}
    lines = template(files).splitlines()
    rows = [line + " ".join(map(repr, samples[line.split(",")[0]])) for line in lines[1:]]
    path = tmp_path_factory.mktemp("csv") / "m.csv"
    path.write_text("\n".join([lines[0], *rows]), encoding="utf-8")
    assert read_measurements(path, files) == {name: tuple(values) for name, values in samples.items()}


def test_an_empty_template_is_refused_row_by_row(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(template(FILES), encoding="utf-8")
    with pytest.raises(RunFolderError, match="line 2: latency_ms of aaa is missing"):
        read_measurements(path, FILES)
