"""TVM with our own schedules: a shared library per target, weights packed inside.

Compiling runs in a child process (`hwautoml.compilers._tvm_worker`), so that neither the
memory of the compiler nor a crash of a candidate touches the caller; running imports tvm.
Hundreds of models share such processes through a `CompilerPool`.
"""

from __future__ import annotations

import importlib.metadata
import json
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwautoml.compilers._files import missing_packages, unique_name
from hwautoml.compilers._tvm_import import import_tvm
from hwautoml.compilers._tvm_process import CompilerProcess
from hwautoml.compilers._tvm_request import BoardRoute, CompileRequest
from hwautoml.compilers.base import CompiledModel, CudaRun, ProgressCallback, checked_input
from hwautoml.core.closing import Closing
from hwautoml.core.temporary import temporary_folder
from hwautoml.errors import CompileError, InvalidValueError, MissingDependencyError

if TYPE_CHECKING:
    import tvm

RUNTIME = "tvm"
#: The function of a library that TVM's runtime captures as a CUDA graph.
CAPTURED = "main_cuda_graph_capture"
SOURCE_SUFFIX = ".onnx"
FILE_NAME = "model.so"
#: A worker that reports nothing for this long is stuck in a candidate (or in the compiler).
_SILENCE_SEC = 300.0


def unavailable_reason() -> str | None:
    """None where TVM is installed; else the command that installs it."""
    return missing_packages({"tvm": "apache-tvm==0.27.0", "tvm_ffi": "apache-tvm-ffi==0.1.14.post1", "onnx": "onnx"})


def version() -> str:
    """The installed version of TVM."""
    return importlib.metadata.version("apache-tvm")


def start(num_threads: int = 1) -> None:
    """Imports tvm."""
    import_tvm(num_threads)


def compile_model(
    source: Path,
    out_dir: Path,
    *,
    tvm_target: Mapping[str, object],
    num_threads: int = 1,
    tune_budget_sec: float = 0.0,
    records_path: Path | None = None,
    on_progress: ProgressCallback | None = None,
    seed: int = 0,
    board: BoardRoute | None = None,
) -> CompiledModel:
    """Compiles a model into ``out_dir / "model.so"``.

    ``tune_budget_sec`` of wall-clock time go into looking for better schedules than the
    fixed rule's, heaviest functions first; what is found is kept in ``records_path``, which
    later compilations (of any network with the same functions) read, whatever their budget. With a ``board``
    candidates are timed there, and its records are looked up.

    Raises CompileError for a model or target that cannot be compiled, and
    UnsupportedOperatorError for an operator that TVM's importer lacks.
    """
    with CompilerPool(num_threads=num_threads) as pool:
        return pool.compile_model(
            source,
            out_dir,
            tvm_target=tvm_target,
            tune_budget_sec=tune_budget_sec,
            records_path=records_path,
            on_progress=on_progress,
            seed=seed,
            board=board,
        )


class CompilerPool(Closing):
    """Compiles many models in ``num_workers`` processes that stay; as many threads may call it at once.

    A model that crashes its worker, or keeps it silent for ``silence_sec``, is a CompileError; the
    next one gets a new worker. The workers end with ``close``, with the ``with`` block, or with
    the pool itself. ``command`` starts other workers that speak the same protocol.
    """

    def __init__(
        self,
        *,
        num_workers: int = 1,
        num_threads: int = 1,
        silence_sec: float = _SILENCE_SEC,
        command: Sequence[str] | None = None,
    ) -> None:
        if num_threads < 1 or num_workers < 1:
            raise InvalidValueError(
                f"num_threads >= 1 and num_workers >= 1 must hold, but got ({num_threads}, {num_workers})"
            )
        self._num_threads, self._silence_sec = num_threads, silence_sec
        self._idle: queue.LifoQueue[CompilerProcess] = queue.LifoQueue()
        self._workers = [CompilerProcess(num_threads, command) for _ in range(num_workers)]
        for worker in self._workers:
            self._idle.put(worker)

    def close(self) -> None:
        for worker in self._workers:
            worker.close()

    def compile_model(
        self,
        source: Path,
        out_dir: Path,
        *,
        tvm_target: Mapping[str, object],
        tune_budget_sec: float = 0.0,
        records_path: Path | None = None,
        on_progress: ProgressCallback | None = None,
        seed: int = 0,
        board: BoardRoute | None = None,
    ) -> CompiledModel:
        """As the module's `compile_model`, which see."""
        if tune_budget_sec < 0:
            raise InvalidValueError(f"tune_budget_sec >= 0 must hold, but got {tune_budget_sec}")
        started = time.perf_counter()
        path = out_dir / FILE_NAME
        with temporary_folder() as folder:
            # Without a file for the records, they still outlive a worker that crashes.
            records = folder / "records.json" if records_path is None else records_path
            request = CompileRequest(
                onnx_path=source.absolute(),
                out_path=path.absolute(),
                target=dict(tvm_target),
                num_threads=self._num_threads,
                tune_budget_sec=tune_budget_sec,
                records_path=records.absolute(),
                seed=seed,
                silence_sec=self._silence_sec,
                board=board,
            )
            result = self._compile(request, on_progress)
        return CompiledModel(
            path=path,
            runtime=RUNTIME,
            functions=result["functions"],
            tuned=result["tuned"],
            untuned=tuple(result["untuned"]),
            fallbacks=tuple(result["fallbacks"]),
            slow=None if result["slow"] is None else tuple(result["slow"]),
            compile_sec=time.perf_counter() - started - result["tune_sec"],
            tune_sec=result["tune_sec"],
            device_code=result["device_code"],
        )

    def tune(
        self,
        sources: Sequence[Path],
        *,
        tvm_target: Mapping[str, object],
        budget_sec: float,
        records_path: Path,
        on_progress: ProgressCallback | None = None,
        seed: int = 0,
        board: BoardRoute | None = None,
    ) -> Tuned:
        """Tunes the distinct functions of many models together, each at least once, then the heaviest first.

        ``records_path`` is written after every trial. With a ``board`` candidates are timed there.
        """
        if not sources or not budget_sec > 0:
            raise InvalidValueError(f"at least one model and budget_sec > 0 must be given, but got {budget_sec}")
        first, *others = (source.absolute() for source in sources)
        request = CompileRequest(
            onnx_path=first,
            out_path=None,
            target=dict(tvm_target),
            num_threads=self._num_threads,
            tune_budget_sec=budget_sec,
            records_path=records_path.absolute(),
            seed=seed,
            silence_sec=self._silence_sec,
            further_paths=tuple(others),
            board=board,
        )
        return Tuned(**self._compile(request, on_progress))

    def _compile(self, request: CompileRequest, on_progress: ProgressCallback | None) -> dict[str, Any]:
        worker = self._idle.get()
        try:
            return worker.compile(request, on_progress)
        finally:
            self._idle.put(worker)


@dataclass(frozen=True)
class Tuned:
    """What `CompilerPool.tune` did: ``num_functions`` have something to choose, ``num_recorded`` now have a record.

    ``num_trials`` candidates were tried in ``seconds``, ``num_left`` never were.
    """

    num_functions: int
    num_recorded: int
    num_trials: int
    num_left: int
    seconds: float


def open_model(path: Path, *, num_threads: int = 1) -> TvmModel:
    """The library in a virtual machine of this process; CompileError when it does not load."""
    import_tvm(num_threads)
    import tvm
    from tvm import relax

    try:
        with unique_name(path) as unique:
            library = tvm.runtime.load_module(str(unique))
        device = tvm.cpu()
        machine = relax.VirtualMachine(library, device)
        description = json.loads(str(machine["describe"]()))
        if description.get("device") == "cuda":
            device = _cuda_device(path)
            machine = relax.VirtualMachine(library, device)
    except (tvm.error.InternalError, RuntimeError, ValueError, AttributeError, OSError) as error:
        if "created using {cuda}" in str(error):  # TVM's CUDA runtime is not loaded: it lacks the driver
            raise _no_cuda(path) from error
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
        place=device,
    )


def _cuda_device(path: Path) -> tvm.runtime.Device:
    import tvm

    device = tvm.cuda()
    if not device.exist:
        raise _no_cuda(path)
    return device


def _no_cuda(path: Path) -> MissingDependencyError:
    return MissingDependencyError(
        f"{path.name} is compiled for a CUDA device, and TVM finds none here",
        fix="run it where there is one (hwautoml doctor), or compile for another target",
    )


@dataclass(frozen=True)
class TvmModel:
    """A compiled network in TVM's virtual machine, with one input and one output.

    On a CUDA device (not run on a GPU so far) inputs are copied there, and a run is over when its result is there.
    """

    machine: Any
    run: Callable[[tvm.runtime.Tensor], tvm.runtime.Tensor]
    input_name: str
    input_shape: tuple[int, ...]
    input_dtype: str
    output_shape: tuple[int, ...]
    place: tvm.runtime.Device

    @property
    def device(self) -> str:
        import tvm

        return "cpu" if self.place == tvm.cpu() else "cuda"

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The output for ``x``."""
        return self.run(self._tensor(x)).numpy()

    def bind(self, x: np.ndarray) -> Callable[[], None]:
        """Runs on ``x``, which is converted once; on a CUDA device it is a `CudaRun`."""
        tensor, run, place = self._tensor(x), self.run, self.place

        def run_once() -> None:
            run(tensor)

        if self.device == "cpu":
            return run_once
        return CudaRun(run_once, place.sync, None if self._has_cuda_graph() else "nothing of it has fixed shapes")

    def _has_cuda_graph(self) -> bool:
        try:
            self.machine[CAPTURED]
        except AttributeError:
            return False
        return True

    def _tensor(self, x: np.ndarray) -> tvm.runtime.Tensor:
        import tvm

        return tvm.runtime.tensor(checked_input(self, x), self.place)
