"""TVM with our own schedules: a shared library per target, weights packed inside.

Compiling runs in a child process (`hwautoml.compilers._tvm_worker`), so that neither the
memory of the compiler nor a crash of a candidate touches the caller; running imports tvm.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

import hwautoml
from hwautoml.compilers._files import missing_packages
from hwautoml.compilers._tvm_import import import_tvm
from hwautoml.compilers._tvm_request import CompileRequest, CrashedTrial
from hwautoml.compilers.base import CompiledModel, ProgressCallback, checked_input
from hwautoml.errors import (
    CompileError,
    HwAutoMLError,
    InvalidValueError,
    RunFolderError,
    UnsupportedOperatorError,
)

if TYPE_CHECKING:
    import tvm

RUNTIME = "tvm"
FILE_NAME = "model.so"
_LOGGER = logging.getLogger(__name__)
_MAX_RESTARTS = 3
#: A worker that reports nothing for this long is stuck in a candidate (or in the compiler).
_SILENCE_SEC = 300.0
#: Time a worker has to end once it has said everything.
_EXIT_SEC = 10.0
#: Errors that a worker may report, by name.
_RAISED: dict[str, Callable[..., HwAutoMLError]] = {
    error.__name__: error
    for error in (CompileError, UnsupportedOperatorError, RunFolderError, InvalidValueError)
}


def unavailable_reason() -> str | None:
    """None where TVM is installed; else the command that installs it."""
    return missing_packages(
        {"tvm": "apache-tvm==0.27.0", "tvm_ffi": "apache-tvm-ffi==0.1.14.post1", "onnx": "onnx"}
    )


def version() -> str:
    """The installed version of TVM."""
    return importlib.metadata.version("apache-tvm")


def compile_model(
    onnx_path: Path,
    out_dir: Path,
    *,
    tvm_target: Mapping[str, object],
    num_threads: int = 1,
    tune_budget_sec: float = 0.0,
    records_path: Path | None = None,
    on_progress: ProgressCallback | None = None,
    seed: int = 0,
) -> CompiledModel:
    """Compiles a model into ``out_dir / "model.so"``.

    ``tune_budget_sec`` of wall-clock time go into looking for better schedules than the
    fixed rule's, heaviest functions first; what is found is kept in ``records_path``, which
    later compilations (of any network with the same functions) read, whatever their budget.

    Raises CompileError for a model or target that cannot be compiled, and
    UnsupportedOperatorError for an operator that TVM's importer lacks.
    """
    if num_threads < 1 or tune_budget_sec < 0:
        raise InvalidValueError(
            f"num_threads >= 1 and tune_budget_sec >= 0 must hold, but got ({num_threads}, {tune_budget_sec})"
        )
    started = time.perf_counter()
    path = out_dir / FILE_NAME
    with tempfile.TemporaryDirectory(prefix="hwautoml-records-") as folder:
        # Without a file for the records, they still outlive a worker that crashes.
        records = Path(folder) / "records.json" if records_path is None else records_path
        request = CompileRequest(
            onnx_path=onnx_path.absolute(),
            out_path=path.absolute(),
            target=dict(tvm_target),
            num_threads=num_threads,
            tune_budget_sec=tune_budget_sec,
            records_path=records.absolute(),
            seed=seed,
        )
        result = _run_with_restarts(request, on_progress)
    return CompiledModel(
        path=path,
        runtime=RUNTIME,
        functions=result["functions"],
        tuned=result["tuned"],
        fallbacks=tuple(result["fallbacks"]),
        compile_sec=time.perf_counter() - started - result["tune_sec"],
        tune_sec=result["tune_sec"],
    )


@dataclass
class _Worker:
    """One life of the worker process, as its events tell it."""

    result: dict[str, Any] | None = None
    error: HwAutoMLError | None = None
    trial: CrashedTrial | None = None
    stderr: str = ""
    exit_code: int = 0


def _run_with_restarts(
    request: CompileRequest, on_progress: ProgressCallback | None
) -> dict[str, Any]:
    """The worker's result; a candidate that ends the worker is skipped in its next life."""
    deadline = time.perf_counter() + request.tune_budget_sec
    for _ in range(_MAX_RESTARTS + 1):
        worker = _run_worker(request, on_progress)
        if worker.error is not None:
            raise worker.error
        if worker.result is not None:
            return worker.result
        if worker.trial is None or worker.exit_code >= 0:
            break  # an error in our own code, not a crash: trying again would not help
        _LOGGER.warning("candidate %s ended the tuner; skipped from now on", worker.trial)
        left_sec = max(0.0, deadline - time.perf_counter())
        request = request.after_crash(worker.trial, left_sec)
    raise CompileError(
        f"the TVM compiler ended with exit code {worker.exit_code} on {request.onnx_path}: "
        f"{worker.stderr.strip()[-800:] or 'it printed nothing'}",
        fix="use the onnxruntime backend (runtime = onnxruntime in the target)",
    )


def _run_worker(request: CompileRequest, on_progress: ProgressCallback | None) -> _Worker:
    """One run of the worker process."""
    worker = _Worker()
    environment = dict(os.environ, TVM_NUM_THREADS=str(request.num_threads))
    package_root = str(Path(hwautoml.__file__).parent.parent)
    search_path = [package_root, environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, search_path))
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "hwautoml.compilers._tvm_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=environment,
        )
        try:
            _converse(process, request, worker, on_progress)
            process.wait(timeout=_EXIT_SEC)
        except subprocess.TimeoutExpired:
            _LOGGER.debug("the worker did not end by itself")
        finally:
            process.kill()
            worker.exit_code = process.wait()
        stderr.seek(0)
        worker.stderr = stderr.read()
    return worker


def _converse(
    process: subprocess.Popen[str],
    request: CompileRequest,
    worker: _Worker,
    on_progress: ProgressCallback | None,
) -> None:
    """Sends the request and follows the events until the worker's output ends."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(request.to_json())
        process.stdin.close()
    except BrokenPipeError:
        _LOGGER.debug("the worker ended before it read its request")
    for event in _events(process, process.stdout):
        kind = event.pop("event")
        if kind == "result":
            worker.result = event
        elif kind == "error":
            worker.error = _RAISED[event["kind"]](event["message"], fix=event["fix"])
        elif kind == "trial":
            worker.trial = CrashedTrial(event["key"], event["name"], event["tiling"])
            _report(on_progress, event["done"], event["total"], f"tuning {event['name']}")
        else:
            worker.trial = None
            _report(on_progress, event["done"], event["total"], event["message"])


def _report(on_progress: ProgressCallback | None, done: int, total: int, message: str) -> None:
    if on_progress is not None:
        on_progress(done, total, message)


def _events(process: subprocess.Popen[str], stream: IO[str]) -> Iterator[dict[str, Any]]:
    """The worker's events; a watchdog ends a worker that has been silent for too long."""
    watchdog = threading.Timer(_SILENCE_SEC, process.kill)
    watchdog.start()
    try:
        for line in stream:
            watchdog.cancel()
            yield json.loads(line)
            watchdog = threading.Timer(_SILENCE_SEC, process.kill)
            watchdog.start()
    finally:
        watchdog.cancel()


def open_model(path: Path, *, num_threads: int = 1) -> TvmModel:
    """The library in a virtual machine of this process; CompileError when it does not load."""
    import_tvm(num_threads)
    import tvm
    from tvm import relax

    try:
        machine = relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())
        description = json.loads(str(machine["describe"]()))
    except (tvm.error.InternalError, RuntimeError, ValueError, AttributeError, OSError) as error:
        raise CompileError(
            f"{path} is not a model compiled by hwautoml: {error}", fix="compile the model again"
        ) from error
    return TvmModel(
        machine=machine,
        run=machine["main"],
        input_name=description["input_name"],
        input_shape=tuple(description["input_shape"]),
        input_dtype=description["input_dtype"],
        output_shape=tuple(description["output_shape"]),
    )


@dataclass(frozen=True)
class TvmModel:
    """A compiled network in TVM's virtual machine, with one input and one output."""

    machine: Any
    run: Callable[[tvm.runtime.Tensor], tvm.runtime.Tensor]
    input_name: str
    input_shape: tuple[int, ...]
    input_dtype: str
    output_shape: tuple[int, ...]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The output for ``x``."""
        return self.run(self._tensor(x)).numpy()

    def bind(self, x: np.ndarray) -> Callable[[], None]:
        """Runs on ``x``, which is converted once."""
        tensor, run = self._tensor(x), self.run

        def run_once() -> None:
            run(tensor)

        return run_once

    def _tensor(self, x: np.ndarray) -> tvm.runtime.Tensor:
        import tvm

        return tvm.runtime.tensor(checked_input(self, x))
