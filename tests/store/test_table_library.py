"""Where tables lie: names that never meet, the user's before those that ship, and nothing written by asking."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwautoml.core.table_identity import TableIdentity
from hwautoml.core.target import PRECISIONS
from hwautoml.store.table_library import RECORDS_FILE, TableLibrary, estimated_path, few_shot_path

IDENTITY = TableIdentity("cpu", "tvm", 1, 1, "fp32", "mobile/v1/32x32x3")
IDENTITIES = st.builds(
    TableIdentity,
    st.sampled_from(["cpu", "rpi4"]),
    st.sampled_from(["tvm", "torch", "torch-inductor"]),
    st.integers(1, 64),
    st.integers(1, 64),
    st.sampled_from(PRECISIONS),
    st.sampled_from(["mobile/v1/32x32x3", "mobile/v1/32x32x1", "ofa-mobilenetv3/v1/w1.2/224x224x3"]),
)


@pytest.fixture(autouse=True)
def nothing_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)


def touched(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_the_name_is_the_identity(tmp_path: Path) -> None:
    path = TableLibrary(tmp_path).table_path(IDENTITY)
    assert path == tmp_path / "cpu" / "tvm-mobile-v1-32x32x3-t1-b1-fp32.json"
    assert TableLibrary(tmp_path).table_path(IDENTITY, is_elsewhere=True).name == f"{path.stem}-rpc.json"
    assert few_shot_path(path).name == f"{path.stem}.few-shot.json"
    assert estimated_path(path).name == f"{path.stem}.estimated.json"


@given(IDENTITIES, IDENTITIES)
def test_different_identities_have_different_files(first: TableIdentity, second: TableIdentity) -> None:
    library = TableLibrary(Path("p"))
    assert (library.table_path(first) == library.table_path(second)) == (first == second)


def test_the_users_come_first_and_full_ones_before_few_shot_ones(tmp_path: Path) -> None:
    own, other = TableLibrary(tmp_path / "own"), TableLibrary(tmp_path / "profiles")
    assert list(own.candidates(replace(IDENTITY, num_threads=63))) == []
    paths = [touched(few_shot_path(own.table_path(IDENTITY))), touched(other.table_path(IDENTITY))]
    found = list(own.candidates(IDENTITY))
    assert found[0] == paths[0] and found[1].samefile(paths[1])
    full = touched(own.table_path(IDENTITY))
    assert list(own.candidates(IDENTITY))[:2] == [full, paths[0]]
    touched(estimated_path(full))
    assert not any("estimated" in path.name for path in own.candidates(IDENTITY))


def test_records_are_no_table_and_asking_writes_nothing(tmp_path: Path) -> None:
    library = TableLibrary(tmp_path / "own")
    assert library.records_path("cpu") == tmp_path / "own" / "cpu" / RECORDS_FILE
    assert library.folder == tmp_path / "own" and "cpu" in library.targets
    assert TableLibrary().folder == tmp_path / "config" / "hwautoml" / "profiles"
    list(library.candidates(IDENTITY))
    assert list(tmp_path.iterdir()) == []
    touched(library.records_path("board"))
    assert list(library.tables_of("board")) == []
    assert library.shipped_records("board") == ()


def test_shipped_records_are_those_of_other_places(tmp_path: Path) -> None:
    shipped = touched(tmp_path / "profiles" / "board" / RECORDS_FILE)
    assert TableLibrary(tmp_path / "own").shipped_records("board") == (shipped,)
    assert TableLibrary(tmp_path / "profiles").shipped_records("board") == ()
