"""Disks that take no more: a limit on the size of files stands for a full disk, since every process can have one."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from hwautoml.core.storage import folder_beside, replaced_atomically, require_writable, storage_error, write_atomically
from hwautoml.errors import StorageError

LIMIT = 4096
WRITERS = {
    "json": """
from hwautoml.store.files import write_json
write_json(path, list(range(5000)))""",
    "tensors": """
import torch
from hwautoml.store.files import write_tensors
write_tensors(path, {"w": torch.zeros(5000)})""",
    "journal": """
from hwautoml.store.run_store import RunStore
RunStore(path.parent / "run", create=True)""",
}
LIMITED = """
import resource, sys
from pathlib import Path
from hwautoml.errors import StorageError
path = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))
try:
    exec(sys.argv[2])
except StorageError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_one_error_and_leaves_what_was_there(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    path.write_text("as it was", encoding="utf-8")
    program = LIMITED.replace("LIMIT, LIMIT", f"{LIMIT}, {LIMIT}")
    done = subprocess.run(
        [sys.executable, "-c", program, str(path), WRITERS[kind]], capture_output=True, text=True, check=False
    )
    assert done.returncode == StorageError.exit_code, done.stderr
    assert re.match(f"(no room to|cannot) write {tmp_path}", done.stdout) and "fix: " in done.stdout
    assert path.read_text(encoding="utf-8") == "as it was"
    assert {found.name for found in tmp_path.iterdir()} <= {"file", "run"}


def test_an_interrupted_block_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_atomically(tmp_path / "new" / "file.txt", "old")
    with pytest.raises(KeyboardInterrupt), replaced_atomically(path) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise KeyboardInterrupt
    assert path.read_text(encoding="utf-8") == "old"
    assert list(path.parent.iterdir()) == [path]


def test_the_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    assert write_atomically(tmp_path / "file", b"x").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "x", tmp_path / "folder", tmp_path / ("a" * 300)):
        for write in (require_writable, partial(write_atomically, content="text")):
            with pytest.raises(StorageError, match="cannot write .*" + path.name):
                write(path)
    with (
        pytest.raises(StorageError, match=f"cannot write {tmp_path / 'file' / 'x'}"),
        folder_beside(tmp_path / "file" / "x"),
    ):
        pass


def test_errors_of_others_stay_theirs(tmp_path: Path) -> None:
    """A file that the block misses somewhere else says nothing of the one that it writes."""
    with pytest.raises(FileNotFoundError), replaced_atomically(tmp_path / "file"):
        (tmp_path / "elsewhere" / "missing").read_bytes()
    with pytest.raises(ValueError, match="bad"), folder_beside(tmp_path / "folder"):
        raise ValueError("bad")
    assert list(tmp_path.iterdir()) == []
    assert storage_error(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")) is None


def test_links_stay_and_devices_get_the_bytes(tmp_path: Path) -> None:
    shared, link, pipe = tmp_path / "shared" / "file", tmp_path / "link", tmp_path / "pipe"
    write_atomically(shared, "old")
    link.symlink_to(shared)
    write_atomically(link, "new")
    assert link.is_symlink() and shared.read_text(encoding="utf-8") == "new"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        require_writable(pipe)
        write_atomically(pipe, "through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert pipe.is_fifo() and {p.name for p in tmp_path.iterdir()} == {"shared", "link", "pipe"}
