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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwautoml.compilers._files import unique_name
from hwautoml.compilers._tvm_import import import_tvm
from hwautoml.compilers._tvm_process import CompilerProcess
from hwautoml.compilers._tvm_request import CompileRequest
from hwautoml.compilers.base import (
    PLACES,
    CompiledModel,
    CudaRun,
    ProgressCallback,
    Traits,
    Tuning,
    checked_input,
    missing_packages,
    require_no_tuning,
)
from hwautoml.core.closing import Closing
from hwautoml.core.target import Target
from hwautoml.core.temporary import temporary_folder
from hwautoml.errors import CompileError, InvalidValueError, MissingDependencyError
from hwautoml.schedules import SCHEDULES_VERSION

if TYPE_CHECKING:
    import tvm

#: The function of a library that TVM's runtime captures as a CUDA graph.
CAPTURED = "main_cuda_graph_capture"
#: A worker that reports nothing for this long is stuck in a candidate (or in the compiler).
_SILENCE_SEC = 300.0
_PROBE_SILENCE_SEC = 60.0  # one layer, or a network to be measured, compiles in less than ten


def unavailable_reason() -> str | None:
    """None where TVM is installed; else the command that installs it."""
    return missing_packages(TRAITS.packages)


def version() -> str:
    """The installed version of TVM."""
    return importlib.metadata.version("apache-tvm")


def start(num_threads: int = 1) -> None:
    """Imports tvm."""
    import_tvm(num_threads)


def compile(
    source: Path,
    out: Path,
    target: Target,
    tuning: Tuning | None = None,
    *,
    on_progress: ProgressCallback | None = None,
) -> CompiledModel:
    """Compiles a model into a library.

    A ``tuning``'s time goes into looking for better schedules than the fixed rule's, heaviest functions first.

    Raises CompileError for a model or target that cannot be compiled, UnsupportedOperatorError for an operator that
    TVM's importer lacks, and InvalidValueError for a tuning on a GPU, where TVM has schedules of its own.
    """
    with CompilerPool() as pool:
        return pool.compile(source, out, target, tuning, on_progress=on_progress)


class CompilerPool(Closing):
    """Compiles many models in ``num_workers`` processes that stay; as many threads may call it at once.

    A model that crashes its worker, or keeps it silent for ``silence_sec``, is a CompileError; the
    next one gets a new worker. The workers end with ``close``, with the ``with`` block, or with
    the pool itself. ``command`` starts other workers that speak the same protocol.
    """

    def __init__(
        self, *, num_workers: int = 1, silence_sec: float = _SILENCE_SEC, command: Sequence[str] | None = None
    ) -> None:
        if num_workers < 1:
            raise InvalidValueError(f"num_workers >= 1 must hold, but got {num_workers}")
        self._silence_sec = silence_sec
        self._idle: queue.LifoQueue[CompilerProcess] = queue.LifoQueue()
        self._workers = [CompilerProcess(command) for _ in range(num_workers)]
        for worker in self._workers:
            self._idle.put(worker)

    def close(self) -> None:
        for worker in self._workers:
            worker.close()

    def compile(
        self,
        source: Path,
        out: Path,
        target: Target,
        tuning: Tuning | None = None,
        *,
        on_progress: ProgressCallback | None = None,
    ) -> CompiledModel:
        """As the module's `compile`, which see."""
        require_no_tuning(TRAITS, target, tuning)
        started, tuning = time.perf_counter(), tuning or Tuning()
        path = out / TRAITS.file_name
        with temporary_folder() as folder:
            # Without a file for the records, they still outlive a worker that crashes.
            records = folder / "records.json" if tuning.records is None else tuning.records
            request = replace(self._request(source, target, tuning, records), out_path=path.absolute())
            result = self._compile(request, on_progress)
        return CompiledModel(
            path=path,
            runtime=TRAITS.name,
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
        self, sources: Sequence[Path], target: Target, tuning: Tuning, *, on_progress: ProgressCallback | None = None
    ) -> Tuned:
        """Tunes the distinct functions of many models together, each at least once, then the heaviest first.

        The records are written after every trial.
        """
        if not sources or not tuning.budget_sec > 0 or tuning.records is None:
            raise InvalidValueError(
                f"at least one model, a file of records and budget_sec > 0 must be given, but got {tuning}"
            )
        first, *others = (source.absolute() for source in sources)
        request = replace(self._request(first, target, tuning, tuning.records), further_paths=tuple(others))
        return Tuned(**self._compile(request, on_progress))

    def _request(self, source: Path, target: Target, tuning: Tuning, records: Path) -> CompileRequest:
        return CompileRequest(
            onnx_path=source.absolute(),
            out_path=None,
            target=dict(target.tvm),
            num_threads=target.num_threads,
            tune_budget_sec=tuning.budget_sec,
            records_path=records.absolute(),
            seed=tuning.seed,
            silence_sec=self._silence_sec,
            board=tuning.board,
        )

    def _compile(self, request: CompileRequest, on_progress: ProgressCallback | None) -> dict[str, Any]:
        worker = self._idle.get()
        try:
            return worker.compile(request, on_progress)
        finally:
            self._idle.put(worker)


def _pool_of_probes(num_workers: int) -> CompilerPool:
    return CompilerPool(num_workers=num_workers, silence_sec=_PROBE_SILENCE_SEC)


TRAITS = Traits(
    name="tvm",
    source_suffix=".onnx",
    file_name="model.so",
    packages={"tvm": "apache-tvm==0.27.0", "tvm_ffi": "apache-tvm-ffi==0.1.14.post1", "onnx": "onnx"},
    own_suffixes=(".so",),
    places=PLACES,
    precisions=("fp32", "int8"),  # our schedules for processors know these
    cuda_precisions=("fp16",),
    on_boards="server",
    ships_as="model_tvm.so",
    channels_last_in=("fp32",),  # in int8 the quantiser makes it so; for GPUs channels stay first
    code_version=f"+schedules{SCHEDULES_VERSION}",
    tunes_on=("cpu",),
    max_parallel=4,
    open_pool=_pool_of_probes,
)


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
