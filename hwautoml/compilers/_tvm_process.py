"""The caller's side of the process that compiles with TVM: start, ask, follow its events, end it."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hwautoml.compilers._tvm_request import CompileRequest, CrashedTrial
from hwautoml.compilers.base import ProgressCallback
from hwautoml.core.children import Lifeline, module_command
from hwautoml.core.storage import full_disk_error
from hwautoml.errors import (
    CompileError,
    HwAutoMLError,
    InvalidValueError,
    MissingDependencyError,
    RunFolderError,
    StorageError,
    TargetUnavailableError,
    UnsupportedOperatorError,
)

_LOGGER = logging.getLogger(__name__)
#: After as many crashes a network is given up; the functions of a whole space have more candidates to crash.
_MAX_RESTARTS, _MAX_RESTARTS_OF_A_SPACE = 3, 30
_NUM_ERROR_CHARACTERS = 800
#: Errors that a worker may report, by name.
_RAISED: dict[str, Callable[..., HwAutoMLError]] = {
    error.__name__: error
    for error in (
        CompileError,
        UnsupportedOperatorError,
        RunFolderError,
        InvalidValueError,
        MissingDependencyError,
        TargetUnavailableError,
        StorageError,
    )
}


class CompilerProcess:
    """One worker that compiles one model after another, started when needed and after each death.

    Importing TVM takes seconds, a layer a few tenths of one: hundreds of layers share a process.
    ``command`` starts another worker that speaks the same protocol.
    """

    def __init__(self, command: Sequence[str] | None = None) -> None:
        self._num_threads = 0  # of the process
        self._command = tuple(command or module_command("hwautoml.compilers._tvm_worker"))
        self._process: subprocess.Popen[str] | None = None
        self._stderr: IO[str] | None = None
        self._finalizer: weakref.finalize[..., CompilerProcess] | None = None

    def compile(self, request: CompileRequest, on_progress: ProgressCallback | None) -> dict[str, Any]:
        """The worker's result; a tuning candidate that ends the worker is skipped in its next life.

        Raises CompileError when a model itself ends it (or keeps it silent for
        ``request.silence_sec``), and what the worker reports; the next request gets a new worker.
        """
        deadline = time.perf_counter() + request.tune_budget_sec
        max_restarts = _MAX_RESTARTS if request.out_path is not None else _MAX_RESTARTS_OF_A_SPACE
        for _ in range(max_restarts + 1):
            life = self._ask(request, on_progress)
            if life.error is not None:
                raise life.error
            if life.result is not None:
                return life.result
            full = full_disk_error(life.stderr, *_places(request))
            if full is not None:
                raise full
            if life.trial is None or life.exit_code >= 0:
                break  # not the fault of a candidate: trying again would not help
            _LOGGER.warning("candidate %s ended the tuner; skipped from now on", life.trial)
            left_sec = max(0.0, deadline - time.perf_counter())
            request = request.after_crash(life.trial, left_sec)
        raise CompileError(
            f"the TVM compiler {_exit_text(life.exit_code, request.silence_sec)} on {request.onnx_path}: "
            f"{life.stderr.strip()[-_NUM_ERROR_CHARACTERS:] or 'it printed nothing'}",
            fix="use the onnxruntime backend (runtime = onnxruntime in the target)",
        )

    def close(self) -> int:
        """Ends the worker and returns its exit code; closing twice is fine."""
        exit_code = 0
        if self._finalizer is not None and self._process is not None:
            self._finalizer()
            exit_code = self._process.returncode
        if self._stderr is not None:
            self._stderr.close()
        self._process = self._stderr = self._finalizer = None
        return exit_code

    def _ask(self, request: CompileRequest, on_progress: ProgressCallback | None) -> _Life:
        """One request to one worker; whatever interrupts it ends the worker."""
        life = _Life()
        self._ensure_started(request.num_threads)
        assert self._process is not None and self._stderr is not None
        try:
            _converse(self._process, request, life, on_progress)
        except BaseException:  # Ctrl-C too: a late answer must not be taken for the next one's
            self.close()
            raise
        if life.error is None and life.result is None:
            life.exit_code = self._process.wait()
            self._stderr.seek(0)
            life.stderr = self._stderr.read()
            self.close()
        return life

    def _ensure_started(self, num_threads: int) -> None:
        """TVM reads the number of threads once: for another one the process starts anew."""
        if self._process is not None and self._process.poll() is None and self._num_threads == num_threads:
            return
        self.close()
        self._num_threads = num_threads
        lifeline = Lifeline()
        # Both live as long as the process.
        self._stderr = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env=lifeline.environment(TVM_NUM_THREADS=str(self._num_threads)),
            pass_fds=lifeline.pass_fds,
        )
        lifeline.started()
        self._finalizer = weakref.finalize(self, _end, self._process, lifeline)


def _places(request: CompileRequest) -> list[Path]:
    """Where it writes."""
    return [Path(tempfile.gettempdir()), *([] if request.out_path is None else [request.out_path.parent])]


@dataclass
class _Life:
    """What a worker said about one request, and how it ended if it did."""

    result: dict[str, Any] | None = None
    error: HwAutoMLError | None = None
    trial: CrashedTrial | None = None
    stderr: str = ""
    exit_code: int = 0


def _converse(
    process: subprocess.Popen[str],
    request: CompileRequest,
    life: _Life,
    on_progress: ProgressCallback | None,
) -> None:
    """Sends the request and follows the events until one ends it, or the worker's output ends."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(request.to_json() + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        _LOGGER.debug("the worker ended before it read its request")
    for line in process.stdout:
        event = json.loads(line)
        kind = event.pop("event")
        if kind == "result":
            life.result = event
            return
        if kind == "log":
            _LOGGER.warning("%s", event["message"])
            continue
        if kind == "error":
            life.error = _RAISED[event["kind"]](event["message"], fix=event["fix"])
            if isinstance(life.error, StorageError):
                life.error.is_full = event.get("is_full", False)
            return
        trial = CrashedTrial(event["key"], event["name"], event["tiling"]) if kind == "trial" else None
        life.trial = trial
        if on_progress is not None:
            message = event["message"] if trial is None else f"tuning {trial.name}"
            on_progress(event["done"], event["total"], message)


def _exit_text(code: int, silence_sec: float) -> str:
    if code == -signal.SIGALRM:
        return f"said nothing for {silence_sec:g} s and was ended"
    return f"crashed (signal {signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"


def _end(process: subprocess.Popen[str], lifeline: Lifeline) -> None:
    process.kill()
    process.wait()
    lifeline.cut()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
