"""ONNX Runtime behind one backend per execution provider: compile, open, run."""

from __future__ import annotations

import importlib
import importlib.metadata
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwautoml.compilers._files import read_onnx
from hwautoml.compilers.base import (
    CompiledModel,
    CudaRun,
    ProgressCallback,
    Traits,
    Tuning,
    checked_input,
    first_line,
    missing_packages,
    require_no_tuning,
)
from hwautoml.core.storage import replaced_atomically
from hwautoml.core.target import Target
from hwautoml.errors import CompileError, InvalidValueError, UnsupportedOperatorError

if TYPE_CHECKING:
    import onnxruntime

SOURCE_SUFFIX, FILE_NAME = ".onnx", "model.onnx"
PACKAGES = {"onnxruntime": "onnxruntime", "onnx": "onnx"}
CPU_PROVIDER = "CPUExecutionProvider"
_NUMPY_TYPES = {
    "tensor(float)": "float32",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int16)": "int16",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
}


@dataclass(frozen=True)
class OnnxRuntimeBackend:
    """The functions of a backend (`base.Backend`) for one execution provider.

    ``providers`` are tried for each operator in this order, and the CPU after them. The first one must
    be there: ONNX Runtime by itself would quietly run everything on the CPU, under another's name.
    """

    TRAITS: Traits
    providers: tuple[str, ...] = ()

    @property
    def device(self) -> str:
        """Where inputs and outputs lie."""
        return "cuda" if self.providers else "cpu"

    def unavailable_reason(self) -> str | None:
        """None where ONNX Runtime has the provider; else what is missing and the command for it."""
        reason = missing_packages(self.TRAITS.packages)
        if reason is not None or not self.providers:
            return reason
        import onnxruntime

        if self.providers[0] in onnxruntime.get_available_providers():
            return None
        return (
            f"the installed ONNX Runtime {onnxruntime.__version__} has no {self.providers[0]}; "
            "run: pip uninstall onnxruntime && pip install onnxruntime-gpu"
        )

    def version(self) -> str:
        """The installed version of ONNX Runtime."""
        try:
            return importlib.metadata.version("onnxruntime")
        except importlib.metadata.PackageNotFoundError:  # the same module, from another package
            return importlib.metadata.version("onnxruntime-gpu")

    def start(self, num_threads: int = 1) -> None:
        """Imports ONNX Runtime; threads are a session's own."""
        importlib.import_module("onnxruntime")

    def compile(
        self,
        source: Path,
        out: Path,
        target: Target,
        tuning: Tuning | None = None,
        *,
        on_progress: ProgressCallback | None = None,
    ) -> CompiledModel:
        """Checks that ONNX Runtime can run the model and copies it into ``out``."""
        import onnx

        require_no_tuning(self.TRAITS, target, tuning)
        started = time.perf_counter()
        model = read_onnx(source)
        path = out / self.TRAITS.file_name
        with replaced_atomically(path) as temporary:
            onnx.save(model, temporary)
            self._session(temporary, source, target.num_threads)
        if on_progress is not None:
            on_progress(1, 1, "checked with ONNX Runtime")
        seconds = time.perf_counter() - started
        return CompiledModel(path, self.TRAITS.name, len(model.graph.node), compile_sec=seconds)

    def open_model(self, path: Path, *, num_threads: int = 1) -> OnnxRuntimeModel:
        """The model in a session of its own; CompileError when it cannot be loaded."""
        session = self._session(path, path, num_threads)
        source, result = session.get_inputs()[0], session.get_outputs()[0]
        return OnnxRuntimeModel(
            session=session,
            input_name=source.name,
            input_shape=_shape(source.shape),
            input_dtype=_numpy_type(source, path),
            output_name=result.name,
            output_shape=_shape(result.shape),
            device=self.device,
            captured_session=lambda: self._session(path, path, num_threads, with_cuda_graph=True),
            further_inputs=tuple((i.name, _shape(i.shape), _numpy_type(i, path)) for i in session.get_inputs()[1:]),
        )

    def _session(
        self, path: Path, named: Path, num_threads: int, *, with_cuda_graph: bool = False
    ) -> onnxruntime.InferenceSession:
        """A session on the file ``path``; errors call it ``named``. With a CUDA graph it runs bound buffers only."""
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        try:
            first = self.providers[:1] if with_cuda_graph else ()  # the graph is of the provider that runs all of it
            providers = [(name, _provider_options(name, path, name in first)) for name in self.providers]
            session = onnxruntime.InferenceSession(str(path), _options(num_threads), [*providers, CPU_PROVIDER])
        except state.NotImplemented as error:
            raise UnsupportedOperatorError(f"ONNX Runtime cannot run {named}: {error}") from error
        except (
            state.EPFail,
            state.Fail,
            state.InvalidArgument,
            state.InvalidGraph,
            state.InvalidProtobuf,
            state.NoSuchFile,
            state.RuntimeException,
        ) as error:
            raise CompileError(f"ONNX Runtime cannot load {named}: {error}", fix="export the model again") from error
        if self.providers and self.providers[0] not in session.get_providers():
            raise CompileError(
                f"ONNX Runtime could not start {self.providers[0]} for {named}",
                fix="check the driver and the CUDA libraries that onnxruntime-gpu names in its documentation",
            )
        return session


def _provider_options(provider: str, path: Path, with_cuda_graph: bool) -> dict[str, str]:
    """Not run on a GPU so far. TensorRT keeps to float32 unless it is allowed the file's own precision."""
    if provider == "TensorrtExecutionProvider":
        allowed = {f"trt_{precision}_enable": "1" for precision in _precisions(path)}
        return allowed | ({"trt_cuda_graph_enable": "1"} if with_cuda_graph else {})
    return {"enable_cuda_graph": "1"} if with_cuda_graph and provider == "CUDAExecutionProvider" else {}


def _precisions(path: Path) -> set[str]:
    """Those below float32 that a file computes in."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    found = {"fp16"} if any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.initializer) else set()
    return found | ({"int8"} if any(node.op_type == "QuantizeLinear" for node in graph.node) else set())


@dataclass(frozen=True)
class OnnxRuntimeModel:
    """An ONNX Runtime session with one input and one output.

    A network with ``further_inputs`` (name, shape, dtype) can be timed, not called: ``bind`` fills them with ones.
    """

    session: onnxruntime.InferenceSession
    input_name: str
    input_shape: tuple[int, ...]
    input_dtype: str
    output_name: str
    output_shape: tuple[int, ...]
    device: str = "cpu"
    further_inputs: tuple[tuple[str, tuple[int, ...], str], ...] = ()
    captured_session: Callable[[], onnxruntime.InferenceSession] | None = None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The output for ``x``."""
        if self.further_inputs:
            names = ", ".join(name for name, _, _ in self.further_inputs)
            raise InvalidValueError(f"the model has further inputs: {names}; one input is expected")
        return self.session.run([self.output_name], {self.input_name: checked_input(self, x)})[0]

    def bind(self, x: np.ndarray) -> Callable[[], None]:
        """Runs on ``x`` with input and output bound on the device, so that no call copies either.

        On a CUDA device it is a `CudaRun`: captured as a CUDA graph where it can be, and over when its result is there.
        """
        if self.device == "cpu":
            binding, session = self._bound(self.session, x), self.session
            return lambda: session.run_with_iobinding(binding)
        return self._captured(x)

    def _captured(self, x: np.ndarray) -> CudaRun:
        """Not run on a GPU so far. ONNX Runtime refuses to capture what has a part on the processor."""
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        assert self.captured_session is not None
        try:
            run = self._on_device(self.captured_session(), x, None)
            run()  # which captures
        except (CompileError, state.Fail, state.InvalidArgument, state.RuntimeException, state.EPFail) as error:
            return self._on_device(self.session, x, first_line(error))
        return run

    def _on_device(self, session: onnxruntime.InferenceSession, x: np.ndarray, launched_singly: str | None) -> CudaRun:
        binding = self._bound(session, x)
        return CudaRun(lambda: session.run_with_iobinding(binding), binding.synchronize_outputs, launched_singly)

    def _bound(self, session: onnxruntime.InferenceSession, x: np.ndarray) -> onnxruntime.IOBinding:
        """Inputs on the device; the output, too, at an address that stays where its shape is known."""
        import onnxruntime

        binding = session.io_binding()
        source = onnxruntime.OrtValue.ortvalue_from_numpy(checked_input(self, x), self.device)
        binding.bind_ortvalue_input(self.input_name, source)
        for name, shape, dtype in self.further_inputs:
            ones = np.ones([max(extent, 1) for extent in shape], dtype)
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(ones, self.device))
        if self.device != "cpu" and min(self.output_shape, default=1) > 0:
            dtype = _NUMPY_TYPES[session.get_outputs()[0].type]
            result = onnxruntime.OrtValue.ortvalue_from_shape_and_type(self.output_shape, dtype, self.device)
            binding.bind_ortvalue_output(self.output_name, result)
        else:
            binding.bind_output(self.output_name, self.device)
        return binding


def _options(num_threads: int) -> onnxruntime.SessionOptions:
    import onnxruntime

    if num_threads < 1:
        raise InvalidValueError(f"num_threads must be at least 1, but got {num_threads}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Threads may spin while a run lasts (it is faster), but not between runs, where they
    # would slow down whatever else is being measured.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    return options


def _numpy_type(value: onnxruntime.NodeArg, path: Path) -> str:
    if value.type not in _NUMPY_TYPES:
        known = ", ".join(_NUMPY_TYPES)
        raise CompileError(f"input {value.name!r} of {path} is a {value.type}; known are {known}")
    return _NUMPY_TYPES[value.type]


def _shape(extents: list[int | str | None]) -> tuple[int, ...]:
    return tuple(extent if isinstance(extent, int) else -1 for extent in extents)
