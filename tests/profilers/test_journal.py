from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hwautoml.errors import RunFolderError
from hwautoml.profilers.journal import Journal, exclusive_lock, wait_while_held

SETTING = {"target": "cpu", "num_threads": 1}


def test_what_was_appended_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "t.journal.jsonl"
    first = Journal(path, SETTING)
    first.append({"record": "layer", "key": "a", "median_ms": 0.1})
    assert Journal(path, SETTING).records == first.records
    assert [line["key"] for line in first.of("layer")] == ["a"]


@pytest.mark.parametrize("torn", [b'{"record": "lay', b'{"record": "layer"}', b"\xff"])
def test_a_torn_last_line_is_dropped_and_written_over(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "t.journal.jsonl"
    Journal(path, SETTING).append({"record": "layer", "key": "a"})
    with path.open("ab") as file:
        file.write(torn)
    resumed = Journal(path, SETTING)
    assert len(resumed.records) == 2
    resumed.append({"record": "layer", "key": "b"})
    assert [line["key"] for line in Journal(path, SETTING).of("layer")] == ["a", "b"]


def test_damage_elsewhere_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "t.journal.jsonl"
    Journal(path, SETTING).append({"record": "layer", "key": "a"})
    content = path.read_bytes().replace(b'{"key"', b'{"key')
    path.write_bytes(content + b'{"record": "layer"}\n')
    with pytest.raises(RunFolderError, match="damaged at line 2"):
        Journal(path, SETTING)


def test_another_setting_starts_anew_and_keeps_the_old(tmp_path: Path) -> None:
    path = tmp_path / "t.journal.jsonl"
    Journal(path, SETTING).append({"record": "layer", "key": "a"})
    before = path.read_bytes()
    assert Journal(path, SETTING | {"num_threads": 4}).of("layer") == []
    assert (tmp_path / "t.journal.jsonl.old").read_bytes() == before


def test_lock_names_its_holder_and_is_released(tmp_path: Path) -> None:
    import os

    path = tmp_path / "t.lock"
    with exclusive_lock(path), pytest.raises(RunFolderError, match=f"process {os.getpid()} "), exclusive_lock(path):
        pass
    with exclusive_lock(path):
        pass


def test_what_is_set_aside_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.journal.jsonl"
    for num_threads in (1, 2, 3):
        Journal(path, SETTING | {"num_threads": num_threads})
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, f"{path.name}.old", f"{path.name}.old2"]


HOLDER = """
import sys, time
from pathlib import Path
from hwautoml.profilers.journal import exclusive_lock
with exclusive_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.mark.parametrize(("held_sec", "timeout_sec", "is_waited_for"), [(1.0, 20.0, True), (30.0, 0.6, False)])
def test_a_lock_of_another_process_is_waited_for(
    tmp_path: Path, held_sec: float, timeout_sec: float, is_waited_for: bool
) -> None:
    path, told = tmp_path / "table.lock", list[str]()
    assert not wait_while_held(path, 1.0, told.append) and told == []  # nobody holds it
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path), str(held_sec)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    assert wait_while_held(path, timeout_sec, told.append) is is_waited_for
    assert set(told) == {str(process.pid)}
    process.kill()
    process.communicate()
    assert not wait_while_held(path, 1.0, told.append)  # a lock that a killed process left is none
