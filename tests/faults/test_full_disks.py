"""A disk that is full while a network is compiled is the disk's fault, and not the network's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hwautoml.compilers._toolchains import architecture_of, link_library
from hwautoml.compilers.tvm import CompilerPool
from hwautoml.core.storage import full_disk_error
from hwautoml.errors import CompileError, StorageError
from tests.compilers.graphs import GraphBuilder
from tests.compilers.shared import HOST


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """``disk(kilobytes)``: a small one, empty."""
    mounted: list[Path] = []

    def mount(kilobytes: int) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        if os.getuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
            pytest.skip("mounting a small disk is not allowed here")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        with suppress(subprocess.CalledProcessError):
            subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    graph = GraphBuilder((1, 4, 8, 8))
    graph.save(tmp_path / "net.onnx", graph.activation(graph.conv("images", 4, 64, 3), "relu"), rank=4)
    return tmp_path / "net.onnx"


@pytest.mark.parametrize("kilobytes", [4, 16])
def test_no_room_for_the_library(disk: Callable[[int], Path], network: Path, kilobytes: int) -> None:
    folder = disk(kilobytes)
    with CompilerPool() as pool:
        with pytest.raises(StorageError, match="no room to write") as caught:
            pool.compile(network, folder / "out", HOST)
        assert caught.value.is_full and "make room" in str(caught.value.fix)
        assert not list((folder / "out").glob("*.so"))
        subprocess.run(["mount", "-o", "remount,size=20m", str(folder)], check=True)
        assert pool.compile(network, folder / "out", HOST).path.is_file()


def test_no_room_for_temporary_files(
    disk: Callable[[int], Path], network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = disk(16)
    monkeypatch.setenv("TMPDIR", str(folder))
    with CompilerPool() as pool, pytest.raises(StorageError, match="no room to write"):
        pool.compile(network, tmp_path / "out", HOST)


def test_the_linkers_own_words(disk: Callable[[int], Path], tmp_path: Path) -> None:
    (tmp_path / "x.c").write_text("char data[200000] = {1};")
    subprocess.run(["gcc", "-c", "-fPIC", str(tmp_path / "x.c"), "-o", str(tmp_path / "x.o")], check=True)
    with pytest.raises(StorageError, match="no room to write"):
        link_library(architecture_of(None), disk(64) / "x.so", [tmp_path / "x.o"])
    with pytest.raises(CompileError):
        link_library(architecture_of(None), tmp_path / "y.so", [tmp_path / "none.o"])


def test_other_failures_are_no_full_disks(tmp_path: Path) -> None:
    assert full_disk_error("undefined reference to main", tmp_path) is None
    assert full_disk_error("final link failed: No space left on device", tmp_path) is not None
