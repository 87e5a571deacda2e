"""The parent's side of the isolated worker: start, ask with a time limit, kill, never leave one behind."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import IO, Any

from hwautoml import errors
from hwautoml.core.children import child_environment, module_command
from hwautoml.errors import HwAutoMLError, MeasurementError

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "TVM_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
_START_TIMEOUT_SEC = 120.0  # importing a compiler on a busy board takes its time
_EXIT_TIMEOUT_SEC = 5.0
_MAX_LINE_BYTES = 1 << 20
_NUM_ERROR_LINES = 3


class WorkerDiedError(MeasurementError):
    """The worker crashed, hung or answered garbage while it served a request; it has been killed."""


class WorkerProcess:
    """One child process, started on the first request and again after a death.

    ``command`` is the interpreter and arguments that serve the protocol.
    """

    def __init__(
        self, runtime: str, num_threads: int, cores: Sequence[int], command: Sequence[str] | None = None
    ) -> None:
        self._runtime = runtime
        self._num_threads = num_threads
        self._cores = tuple(cores)
        self._command = tuple(command or module_command("hwautoml.devices.worker"))
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._finalizer: weakref.finalize[..., WorkerProcess] | None = None
        self._buffer = b""
        self.runtime_version: str | None = None
        self.num_starts = 0  # models opened in an earlier process are gone

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def ensure_started(self) -> None:
        """Raises the backend's own error when the runtime cannot be used, WorkerDiedError when nothing starts."""
        if self.is_running:
            return
        self.close()
        environment = child_environment(**dict.fromkeys(_THREAD_VARIABLES, str(self._num_threads)))
        arguments = [
            "--runtime",
            self._runtime,
            "--num-threads",
            str(self._num_threads),
            "--cores",
            ",".join(map(str, self._cores)),
            "--parent",
            str(os.getpid()),
        ]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        # A session of its own: Ctrl-C reaches the parent only, which then ends the whole group.
        self._process = subprocess.Popen(
            [*self._command, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            start_new_session=True,
            bufsize=0,
        )
        self._finalizer = weakref.finalize(self, _kill_group, self._process)
        self.num_starts += 1
        hello = self._receive(_START_TIMEOUT_SEC)
        if not hello["ok"]:
            self.close()
            raise _error_of(hello)
        self.runtime_version = str(hello["runtime_version"])

    def request(self, message: Mapping[str, object], timeout_sec: float) -> dict[str, Any]:
        """The answer's fields.

        Raises:
            WorkerDiedError: crash, hang or garbage; the next request gets a fresh process.
            HwAutoMLError: what the backend reported, as the same class.
        """
        self.ensure_started()
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            raise self._died("crashed") from None
        answer = self._receive(timeout_sec)
        if not answer["ok"]:
            raise _error_of(answer)
        return answer

    def close(self) -> None:
        """Kill the process group and wait for it; closing twice is fine."""
        if self._finalizer is not None:
            self._finalizer()
        if self._errors is not None:
            self._errors.close()
        self._process = self._errors = self._finalizer = None
        self._buffer = b""

    def _receive(self, timeout_sec: float) -> dict[str, Any]:
        try:
            line = self._read_line(timeout_sec)
        except KeyboardInterrupt:
            self.close()  # its late answer must not be taken for that of the next request
            raise
        try:
            answer = json.loads(line)
        except ValueError:
            raise self._died(f"answered garbage: {line[:80]!r}") from None
        if not isinstance(answer, dict) or not isinstance(answer.get("ok"), bool):
            raise self._died(f"answered garbage: {line[:80]!r}")
        return answer

    def _read_line(self, timeout_sec: float) -> bytes:
        assert self._process is not None and self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + timeout_sec
        while b"\n" not in self._buffer:
            if len(self._buffer) > _MAX_LINE_BYTES:
                raise self._died("answered an endless line")
            ready, _, _ = select.select([descriptor], [], [], max(deadline - time.monotonic(), 0.0))
            if not ready:
                raise self._died(f"gave no answer within {timeout_sec:g} s")
            received = os.read(descriptor, 65536)
            if not received:
                raise self._died("crashed")
            self._buffer += received
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _died(self, what: str) -> WorkerDiedError:
        """End the process; the reason includes its exit and the last lines it wrote to standard error."""
        assert self._process is not None and self._errors is not None
        if what == "crashed":
            with contextlib.suppress(subprocess.TimeoutExpired):  # it closed its output and lives on
                what = f"crashed ({_exit_text(self._process.wait(timeout=_EXIT_TIMEOUT_SEC))})"
        self._errors.seek(max(os.fstat(self._errors.fileno()).st_size - 4096, 0))
        lines = [line for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        self.close()
        tail = " | ".join(lines[-_NUM_ERROR_LINES:])
        return WorkerDiedError(f"the {self._runtime} worker {what}" + (f": {tail}" if tail else ""))


def _exit_text(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _error_of(answer: Mapping[str, object]) -> HwAutoMLError:
    """Error classes keep their meaning (and exit code) across the process boundary."""
    kind = getattr(errors, str(answer.get("type")), MeasurementError)
    message, fix = str(answer.get("error")), answer.get("fix")
    fix = None if fix is None else str(fix)
    if not (isinstance(kind, type) and issubclass(kind, HwAutoMLError)) or issubclass(kind, errors.UnknownNameError):
        return MeasurementError(message, fix=fix)  # UnknownNameError wants its parts, not a sentence
    return kind(message, fix=fix)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended by itself
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
