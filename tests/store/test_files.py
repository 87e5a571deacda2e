from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hwautoml.errors import RunFolderError
from hwautoml.store.files import read_json, read_tensors, write_json, write_tensors

# Rewrites one file for ever, each time with a list of equal numbers.
WRITER = """
import itertools, sys
from pathlib import Path
from hwautoml.store.files import write_json
for number in itertools.count():
    write_json(Path(sys.argv[1]), [number] * 20_000)
    print(number, flush=True)
"""


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    data = {"class": "größer", "values": [1, 0.1, None, True], "nested": {"a": "b"}}
    assert read_json(write_json(tmp_path / "new" / "folder" / "file.json", data)) == data


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = write_json(tmp_path / "result.json", {"accuracy": 0.9})
    with pytest.raises(TypeError):
        write_json(path, {"accuracy": object()})
    assert read_json(path) == {"accuracy": 0.9}
    assert list(tmp_path.iterdir()) == [path]


def test_tensors_that_cannot_be_written_leave_the_old_file(tmp_path: Path) -> None:
    path = write_tensors(tmp_path / "weights.safetensors", {"w": torch.ones(3)})
    with pytest.raises((TypeError, AttributeError, ValueError)):
        write_tensors(path, {"w": torch.zeros(3), "broken": "no tensor"})  # type: ignore[dict-item]
    assert read_tensors(path)[0]["w"].tolist() == [1, 1, 1]
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    for _ in range(4):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        reported = [writer.stdout.readline()]
        time.sleep(0.1)
        writer.send_signal(signal.SIGKILL)
        reported += writer.communicate()[0].split()
        found = read_json(path)
        assert len(found) == 20_000 and len(set(found)) == 1 and found[0] >= int(reported[-1])


def test_damaged_json_names_file_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text('{\n "a": 1,\n "b": 2,,\n}\n', encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"result.json is damaged at line 3, column 9"):
        read_json(path)


@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe garbage", b'{"a": "\xe9"}'])
def test_what_is_no_json_is_an_error_of_the_family(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(RunFolderError, match="result.json is damaged"):
        read_json(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for read, name in ((read_json, "gone.json"), (read_tensors, "gone.safetensors")):
        with pytest.raises(RunFolderError, match=f"{name} does not exist"):
            read(tmp_path / name)


def test_tensors_and_their_metadata_come_back_exactly(tmp_path: Path) -> None:
    tensors = {
        "weight": torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last),
        "half": torch.randn(5).to(torch.bfloat16),
        "count": torch.tensor(7),
        "slice": torch.arange(20).view(4, 5)[:2, 1:3],
        "trained": torch.nn.Parameter(torch.ones(2)),
    }
    found, metadata = read_tensors(write_tensors(tmp_path / "t.safetensors", tensors, {"state": '{"steps": 3}'}))
    assert metadata == {"state": '{"steps": 3}'}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor.detach()), name
    assert read_tensors(write_tensors(tmp_path / "plain.safetensors", {"a": torch.ones(1)}))[1] == {}


@pytest.mark.parametrize("keep", [0, 4, 30, -8], ids=["empty", "header cut", "header cut later", "data cut"])
def test_damaged_tensors_are_an_error_with_a_fix(tmp_path: Path, keep: int) -> None:
    path = write_tensors(tmp_path / "weights.safetensors", {"w": torch.randn(64)})
    content = path.read_bytes()
    path.write_bytes(content[:keep])
    with pytest.raises(RunFolderError, match=r"weights.safetensors is damaged: .+") as caught:
        read_tensors(path)
    assert caught.value.fix is not None and f"rm {path}" in caught.value.fix


def test_two_writers_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    """The name holds the process's id; what another process left is not touched."""
    other = tmp_path / f".file.json.{os.getpid() + 1}.tmp"
    other.write_text("half a fi", encoding="utf-8")
    write_json(tmp_path / "file.json", [1])
    assert other.read_text(encoding="utf-8") == "half a fi"
