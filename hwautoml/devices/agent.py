"""The board's side of a remote device: TVM's RPC server, supervised, with what a measurement needs to know.

    python -m hwautoml.devices.agent --host 0.0.0.0 --key SECRET

Three processes, so that no client can end the service: ``serve_agent`` holds the port and starts the
server anew when it ends; the server (TVM's own loop) takes one client after another; each client
gets a session process, which may crash or hang in a kernel.
"""

from __future__ import annotations

import argparse
import getpass
import importlib
import json
import logging
import multiprocessing
import os
import re
import resource
import select
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from hwautoml.core.children import die_with_parent
from hwautoml.core.temporary import temporary_folder
from hwautoml.devices import agent_models
from hwautoml.devices.address import Address
from hwautoml.devices.machine import allowed_cores, fingerprint, machine_conditions
from hwautoml.devices.running import random_input, reset_peak_memory, status_bytes
from hwautoml.errors import InvalidValueError, MissingDependencyError

AGENT_COMMAND = "python -m hwautoml.devices.agent"
DEFAULT_PORT = 9090
BOARD_PACKAGES = "pip install apache-tvm==0.27.0 apache-tvm-ffi==0.1.14.post1 'tornado>=6.4,<7'"
#: Registered under this prefix where clients can call them; a TVM server without them is served less well.
PREFIX = "hwautoml.agent."
_KEY = re.compile(r"[A-Za-z0-9._-]{1,200}")
_RESTART_SEC = 0.5
_INTRODUCTION_SEC = 5  # a client names its key in its first packet
_MAX_KEY_BYTES = 1024
_MAX_WAITING = 200  # connections that have not introduced themselves
KEY_VARIABLE = "HWAUTOML_KEY"
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}  # a client whose cable was pulled

logger = logging.getLogger(__name__)


def serve_agent(
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    *,
    key: str = "",
    tracker: str | None = None,
    on_listening: Callable[[Address], None] | None = None,
) -> None:
    """Let clients run code on this machine, one at a time, until SIGTERM or Ctrl-C; port 0 takes a free one.

    Runs in the main thread and does not return. One agent per machine: two would measure each other.
    Without a tracker, ``key`` is what clients must know; with one, it is the name under which boards
    of this kind are asked for.

    Raises:
        InvalidValueError: a key that is missing or malformed, an address that cannot be listened on.
        MissingDependencyError: TVM or its RPC is not installed.
    """
    tracker_address = None if tracker is None else Address.parse(tracker)
    require_safe(host, key, tracker_address)
    with _listener(host, port) as listener:
        _import_server()
        address = Address(host, listener.getsockname()[1])
        previous = signal.signal(signal.SIGTERM, _exit)
        try:
            if on_listening is not None:
                on_listening(address)
            logger.info("listening on %s", address)
            if not key:
                logger.warning(
                    "no key: every user and program of this machine can run code here as %s; give --key-file to keep "
                    "them out",
                    getpass.getuser(),
                )
            _supervise(listener, address.port, key, tracker_address)
        finally:
            signal.signal(signal.SIGTERM, previous)


def require_safe(host: str, key: str, tracker: Address | None) -> None:
    """TVM's RPC runs whatever a client uploads: reachable from elsewhere only on purpose."""
    is_loopback = Address(host, DEFAULT_PORT).is_loopback
    if key and not _KEY.fullmatch(key):
        raise InvalidValueError(f"a key consists of letters, digits, '.', '_' and '-', got {key!r}")
    if not key and not is_loopback:
        raise InvalidValueError(
            f"listening on {host} without a key would let everyone who reaches this machine run code on it",
            fix=f"{AGENT_COMMAND} --host {host} --key SECRET (or --key-file FILE, which no process list shows), or "
            "stay on 127.0.0.1 and use: ssh -L",
        )
    if not key and tracker is not None:
        raise InvalidValueError(
            "a tracker hands boards out by key, and none was given",
            fix=f"{AGENT_COMMAND} --tracker {tracker} --key rpi4",
        )
    if tracker is not None and is_loopback and not tracker.is_loopback:
        raise InvalidValueError(
            f"the tracker at {tracker} would send clients to this machine, which listens on {host} only",
            fix=f"{AGENT_COMMAND} --host 0.0.0.0 --tracker {tracker} --key {key}",
        )


def key_from(key: str | None, key_file: Path | None) -> str:
    """The key as it is given, in a file's first line or in the environment; empty without one.

    Raises:
        InvalidValueError: two keys, or a file that cannot be read or has no such line.
    """
    if key_file is None:
        return os.environ.get(KEY_VARIABLE, "") if key is None else key
    if key is not None:
        raise InvalidValueError("--key and --key-file are two keys", fix="leave one of them out")
    try:
        with key_file.open("rb") as file:
            line = file.readline(_MAX_KEY_BYTES).strip().decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValueError(f"cannot read a key from {key_file}: {error}") from error
    if not line:
        raise InvalidValueError(f"{key_file} holds no key", fix=f"openssl rand -hex 16 > {key_file}")
    return line


def _import_server() -> None:
    """Once, before any process is forked. A board needs none of what compiles and trains."""
    from hwautoml.compilers._tvm_import import import_tvm

    try:
        import_tvm(1)
        importlib.import_module("tvm.rpc.server")
    except ImportError as error:
        raise MissingDependencyError(f"an agent needs TVM and its RPC: {error}", fix=BOARD_PACKAGES) from error


def _exit(signal_number: int, frame: FrameType | None) -> None:
    sys.exit(0)


class _Listener(socket.socket):
    """TVM's server reads a client's introduction without a time limit: whoever is silent would block it.

    All that have connected are waited for at the same time, so that the silent hold nobody up.
    """

    def __init__(self, family: int, kind: int) -> None:
        super().__init__(family, kind)
        self._waiting: dict[socket.socket, tuple[object, float]] = {}  # address, and until when it may be silent

    def accept(self) -> tuple[socket.socket, object]:
        """The first that names a key; ConnectionAbortedError, after which the server goes on, when none does."""
        while True:
            patience = min((deadline for _, deadline in self._waiting.values()), default=None)
            wait_sec = None if patience is None else max(patience - time.monotonic(), 0.0)
            ready, _, _ = select.select([self, *self._waiting], [], [], wait_sec)
            if self in ready:
                self._let_in()
            for connection in [connection for connection in ready if connection in self._waiting]:
                if (is_introduced := _introduces_itself(connection)) is not None:
                    address, _ = self._waiting.pop(connection)
                    if is_introduced:
                        return connection, address
                    self._turn_away(connection, address)
            for connection, (address, deadline) in list(self._waiting.items()):
                if time.monotonic() >= deadline or len(self._waiting) > _MAX_WAITING:  # the oldest first
                    del self._waiting[connection]
                    self._turn_away(connection, address)
            if not self._waiting:
                raise ConnectionAbortedError("no introduction")

    def _let_in(self) -> None:
        connection, address = super().accept()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._waiting[connection] = address, time.monotonic() + _INTRODUCTION_SEC

    def _turn_away(self, connection: socket.socket, address: object) -> None:
        connection.close()
        logger.warning("%s connected and named no key", address)


def _introduces_itself(connection: socket.socket) -> bool | None:
    """Whether magic number, length and key arrived, which are left to be read; None while more may come.

    The socket then counts as readable once the rest is there.
    """
    try:
        data = connection.recv(_MAX_KEY_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except OSError:
        return False
    num_bytes = 8 if len(data) < 8 else 8 + struct.unpack("<ii", data[:8])[1]
    if not 8 <= num_bytes <= _MAX_KEY_BYTES:
        return False
    if len(data) >= num_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        return _is_key(data[8:num_bytes])
    if not data or connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == num_bytes:
        return False  # readable all the same: it has ended
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, num_bytes)
    return None


def _is_key(data: bytes) -> bool:
    """TVM's server takes the first word of this text, and ends where there is none."""
    try:
        return bool(data.decode("utf-8").split())
    except UnicodeDecodeError:
        return False


def _listener(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = _Listener(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
    except (OSError, OverflowError) as error:
        raise InvalidValueError(f"cannot listen on {host} port {port}: {error}", fix="choose another port") from error
    return listener


def _supervise(listener: socket.socket, port: int, key: str, tracker: Address | None) -> None:
    """A session that crashes takes TVM's server with it; clients that wait for the port don't notice."""
    context = multiprocessing.get_context("fork")
    while True:
        with temporary_folder() as uploads:
            server = context.Process(target=_run_server, args=(listener, port, key, tracker, uploads, os.getpid()))
            server.start()
            try:
                server.join()
            finally:
                server.kill()  # its session ends with it
                server.join()
        logger.warning("a session crashed, or the tracker is away: the server is started anew")
        time.sleep(_RESTART_SEC)


def _run_server(
    listener: socket.socket, port: int, key: str, tracker: Address | None, uploads: Path, parent: int
) -> None:
    """The server process."""
    from tvm.rpc.server import _listen_loop

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's
    die_with_parent(parent)
    tempfile.tempdir = str(uploads)
    _register_functions()
    server = os.getpid()
    os.register_at_fork(after_in_child=lambda: die_with_parent(server))  # every child is a session
    tracker_address = None if tracker is None else (tracker.host, tracker.port)
    try:
        _listen_loop(listener, port, key, tracker_address, None, None)
    except RuntimeError as error:
        sys.exit(str(error))


def _register_functions() -> None:
    """What clients may ask for beyond TVM's own functions."""
    from tvm_ffi import register_global_func

    for function in (conditions, pin, limit_time, num_preemptions, try_loading, *agent_models.FUNCTIONS):
        register_global_func(PREFIX + function.__name__, function, override=True)


def conditions(runtime: str) -> str:
    """``machine_conditions`` of this machine, the runtime's version and the fingerprint, as JSON."""
    from hwautoml.compilers import load_backend

    if agent_models.is_agents(runtime):
        agent_models.require_installed(runtime)
    version = load_backend(runtime).version()
    own = {"runtime_version": version, "fingerprint": fingerprint(runtime, version)}
    return json.dumps(machine_conditions() | own)


def pin(num_threads: int) -> str:
    """Put this session on the last cores it may use, as a local worker is; JSON list of them, empty if too few."""
    cores = allowed_cores()[-num_threads:]
    if len(cores) < num_threads:
        return "[]"
    os.sched_setaffinity(0, cores)
    os.environ["TVM_NUM_THREADS"] = str(num_threads)  # read when the first thread is needed
    return json.dumps(cores)


def limit_time(seconds: float) -> None:
    """End this session after so long, whatever it is doing (its client has given up by then); 0 lifts the limit."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


def num_preemptions() -> int:
    """How often the scheduler has taken a core away from this session."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def try_loading(name: str, num_threads: int) -> str:
    """``load_ms`` and ``peak_memory_bytes`` of loading an uploaded file and running it once, as JSON."""
    import tvm_ffi

    from hwautoml.compilers import load_backend

    runtime = agent_models.runtime_here(name)
    if agent_models.is_agents(runtime):
        agent_models.require_installed(runtime)
    backend = load_backend(runtime)
    backend.start(num_threads)
    path = Path(str(tvm_ffi.get_global_func("tvm.rpc.server.workpath")(name)))
    before = reset_peak_memory()
    start = time.perf_counter()
    opened = backend.open_model(path, num_threads=num_threads)
    opened(random_input(opened.input_shape, opened.input_dtype, seed=0))
    load_ms = 1e3 * (time.perf_counter() - start)
    peak = None if before is None else max(status_bytes("VmHWM") - before, 0)
    return json.dumps({"load_ms": load_ms, "peak_memory_bytes": peak})


def main(arguments: Sequence[str] | None = None) -> None:
    """The same from a shell."""
    parser = argparse.ArgumentParser(prog=AGENT_COMMAND, description="Let clients measure networks on this machine.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT)
    parser.add_argument("--key", help=f"what clients must know; with a tracker, the kind of board [{KEY_VARIABLE}]")
    parser.add_argument("--key-file", type=Path, help="the same in a file, which no process list shows")
    parser.add_argument("--tracker", help="host:port of the tracker to register with")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        key = key_from(options.key, options.key_file)
        serve_agent(options.host, options.port, key=key, tracker=options.tracker)
    except (InvalidValueError, MissingDependencyError) as error:
        parser.exit(error.exit_code, f"{error}\n")
    except KeyboardInterrupt:
        logger.info("stopped")


if __name__ == "__main__":
    main()
