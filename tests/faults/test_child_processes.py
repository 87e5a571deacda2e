"""What child processes import, and that none outlives a parent that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hwautoml.compilers.tvm import CompilerPool
from hwautoml.core.children import child_environment
from hwautoml.devices import connection
from hwautoml.devices.local import LocalDevice
from hwautoml.devices.process import WorkerProcess
from tests.compilers.graphs import GraphBuilder
from tests.compilers.shared import HOST

#: Imported by Python itself, by numpy, by ONNX Runtime or by TVM.
SHADOWED = ("random", "json", "argparse", "typing", "numpy", "onnx", "ml_dtypes", "hwautoml", "__future__")


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder has modules of well-known names; the file appears when one is imported."""
    folder, sprung = tmp_path / "here", tmp_path / "sprung"
    folder.mkdir()
    for name in SHADOWED:
        (folder / f"{name}.py").write_text(f"open({str(sprung)!r}, 'a').write({name!r})\nraise SystemExit('trap')\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", "") + os.pathsep)  # as a stray colon leaves it
    return sprung


def network(path: Path) -> Path:
    graph = GraphBuilder((1, 4, 8, 8))
    graph.save(path, graph.activation(graph.conv("images", 4, 8, 3), "relu"), rank=4)
    return path


def test_the_measuring_worker_imports_nothing_from_the_current_folder(trap: Path) -> None:
    with LocalDevice("onnxruntime") as device:
        assert device.runtime_version
    assert not trap.exists()


def test_the_boards_worker_imports_nothing_from_the_current_folder(trap: Path) -> None:
    worker = WorkerProcess("board", 1, (), connection._COMMAND)
    try:
        worker.ensure_started()
        assert worker.runtime_version
    finally:
        worker.close()
    assert not trap.exists()


def test_the_compiler_imports_nothing_from_the_current_folder(trap: Path, tmp_path: Path) -> None:
    with CompilerPool() as pool:
        compiled = pool.compile(network(tmp_path / "net.onnx"), tmp_path / "out", HOST)
    assert compiled.path.is_file() and not trap.exists()


def test_children_of_children_do_not_either(trap: Path) -> None:
    inner = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import random'], check=True)"
    subprocess.run([sys.executable, "-P", "-c", inner], env=child_environment(), check=True)
    assert not trap.exists()


#: Hangs in native code that never lets Python in, as a compiler may.
WORKER = """
import re
from hwautoml.compilers import _tvm_worker as worker
worker._serve = lambda request, events: re.match("(a+)+$", 99 * "a" + "b")
worker.main()
"""
#: Its worker was started by a thread that has ended.
PARENT = """
import pathlib, sys, threading
from hwautoml.compilers.tvm import CompilerPool
from hwautoml.testing.runtimes import this_machine
pool = CompilerPool(command=(sys.executable, "-c", sys.argv[2]))
thread = threading.Thread(target=pool._workers[0]._ensure_started, args=(1,))
thread.start()
thread.join()
print(pool._workers[0]._process.pid, flush=True)
pool.compile(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[1] + ".out"), this_machine())
"""


def test_the_compiler_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """At once, whatever it is in the middle of."""
    command = [sys.executable, "-c", PARENT, str(network(tmp_path / "net.onnx")), WORKER]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    time.sleep(2.0)
    assert _is_alive(worker)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 0.5
    while _is_alive(worker) and time.monotonic() < deadline:
        time.sleep(0.01)
    survived = _is_alive(worker)
    if survived:
        os.kill(worker, signal.SIGKILL)
    assert not survived


def _is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # ended, and not yet waited for
