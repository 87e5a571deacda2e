"""Real agents, servers and trackers on loopback, each a process, and libraries for them to run."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from hwautoml.core.measurement import Measurement
from hwautoml.devices.protocol import MeasureFailure, MeasureProtocol
from hwautoml.errors import TargetUnavailableError

KEY = "test-board"
QUICK = MeasureProtocol(warmup_ms=2, min_rounds=6, max_rounds=8, min_sample_ms=0.3, timeout_sec=20)
AGENT = """
from hwautoml.devices.agent import serve_agent
serve_agent(port={port}, key={key!r}, tracker={tracker!r}, on_listening=lambda address: print(address, flush=True))
"""
# As where nobody installed it: importing it fails.
AGENT_WITHOUT_ONNX = """
import sys
sys.modules["onnxruntime"] = None
from hwautoml.devices.agent import serve_agent
serve_agent(port=0, key="test-board", on_listening=lambda address: print(address, flush=True))
"""
PLAIN_SERVER = """
from hwautoml.compilers._tvm_import import import_tvm
import_tvm(1)
from tvm.rpc.server import PopenRPCServerState
print(f"127.0.0.1:{PopenRPCServerState('127.0.0.1', 21000, 22000, key='test-board').port}", flush=True)
"""
TRACKER = """
from hwautoml.compilers._tvm_import import import_tvm
import_tvm(1)
from tvm.rpc.tracker import PopenTrackerServerState
print(f"127.0.0.1:{PopenTrackerServerState('127.0.0.1', 22000, 23000).port}", flush=True)
"""
# A network that never ends, and one that takes its process down, as a bad kernel does.
ODD_LIBRARY = """
import json, sys
from hwautoml.compilers._tvm_import import import_tvm
import_tvm(1)
import tvm
from tvm import relax, te, tirx

def endless(x):
    i, j = te.reduce_axis((0, 10**6), "i"), te.reduce_axis((0, 10**6), "j")
    return te.compute((1, 4), lambda n, c: te.sum(te.sin(x[n, c] * i.astype("float32") + j), axis=[i, j]))

def crash(x):
    return te.compute((1, 4), lambda n, c: tirx.call_extern("float32", "abort"))

kind, path = sys.argv[1:]
builder, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType((1, 4), "float32"))
with builder.function("main", [x]):
    builder.emit_func_output(builder.emit_te({"endless": endless, "crash": crash}[kind], x))
told = {"input_name": "x", "input_shape": [1, 4], "input_dtype": "float32", "output_shape": [1, 4]}
with builder.function("describe", []):
    builder.emit_func_output(tvm.ir.StringImm(json.dumps(told)))
tvm.compile(builder.get(), target=tvm.target.Target({"kind": "llvm"})).export_library(path)
"""


class Service:
    """A process that printed the address it listens on."""

    def __init__(self, code: str) -> None:
        # A group and a folder of its own, so that nothing of it is left behind.
        self._folder = tempfile.TemporaryDirectory()
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            env=os.environ | {"TMPDIR": self._folder.name},
        )
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], 60.0)
        self.address = self.process.stdout.readline().strip() if ready else ""
        if not self.address:
            self.kill()
            raise AssertionError("the service did not start")

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def kill(self) -> None:
        """As if the board's plug was pulled."""
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._folder.cleanup()


@contextmanager
def running(code: str) -> Iterator[Service]:
    service = Service(code)
    try:
        yield service
    finally:
        service.kill()


def agent(port: int = 0, key: str = KEY, tracker: str | None = None) -> str:
    return AGENT.format(port=port, key=key, tracker=tracker)


@contextmanager
def slow_network(port: int, delay_sec: float) -> Iterator[int]:
    """A port of this machine that leads to ``port``; whatever passes is late by ``delay_sec``, either way."""

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 20):
                time.sleep(delay_sec)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        near, _ = listener.accept()
        with near, socket.create_connection(("127.0.0.1", port)) as far:
            back = threading.Thread(target=pump, args=(far, near))
            back.start()
            pump(near, far)
            back.join()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def odd_library(kind: str, folder: Path) -> Path:
    """``kind`` is "endless" or "crash"; on (1, 4) float32."""
    path = folder / f"{kind}.so"
    subprocess.run([sys.executable, "-c", ODD_LIBRARY, kind, str(path)], check=True, capture_output=True)
    return path


def processes_of_group(group: int) -> list[int]:
    """Living members of a process group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def becomes_true(condition: object, within_sec: float = 20.0) -> bool:
    assert callable(condition)
    deadline = time.monotonic() + within_sec
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(condition())


def unavailable(match: str) -> pytest.RaisesExc[TargetUnavailableError]:
    return pytest.raises(TargetUnavailableError, match=match)


def measured(results: list[Measurement | MeasureFailure]) -> list[Measurement]:
    assert all(isinstance(result, Measurement) for result in results), results
    return [result for result in results if isinstance(result, Measurement)]
