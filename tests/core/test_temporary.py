"""Nothing stays of a process that was killed, and nothing is taken from one that is at work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hwautoml.core.storage import folder_beside, write_atomically
from hwautoml.core.temporary import remove_leftovers, temporary_folder

HOLDER = """
import sys, time
from pathlib import Path
from hwautoml.core.storage import folder_beside, replaced_atomically
from hwautoml.core.temporary import temporary_folder
place = Path(sys.argv[1])
with temporary_folder() as one, folder_beside(place / "bundle") as two, replaced_atomically(place / "x.png") as three:
    (two / "bundle").mkdir()
    print("ready", flush=True)
    time.sleep(60)
"""


def age(place: Path) -> list[str]:
    """The names of what is hidden in it, made an hour old."""
    for path in place.iterdir():
        os.utime(path, (time.time() - 3600,) * 2)
    return sorted(path.name for path in place.iterdir())


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    names = age(tmp_path)
    assert len(names) == 3
    remove_leftovers(tmp_path)
    assert age(tmp_path) == names  # it is at work
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    age(tmp_path)
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_what_bears_our_name_is_removed(tmp_path: Path) -> None:
    for name in ("hwautoml-tmp-mine", "hwautoml-results", ".abcdefgh.png", "hwautoml-tmp-ABCDEFGH"):
        (tmp_path / name).mkdir()
    (tmp_path / "hwautoml-tmp-abcdefgh").symlink_to(tmp_path / "hwautoml-results")
    before = age(tmp_path)
    (tmp_path / ".hwautoml-tmp-abcdefgh.png").write_text("new: its lock may be on the way")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, ".hwautoml-tmp-abcdefgh.png"])


def test_nothing_stays(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file.txt", "text")
    with folder_beside(tmp_path / "bundle") as folder:
        assert folder.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o700
    with temporary_folder() as other, pytest.raises(RuntimeError), temporary_folder() as inner:
        raise RuntimeError
    assert not other.exists() and not inner.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]
