"""The contract of a backend: what every file of this folder provides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from hwautoml.errors import InvalidValueError

#: Called with (functions or candidates done, of how many, what is being done).
ProgressCallback = Callable[[int, int, str], None]


@dataclass(frozen=True)
class CompiledModel:
    """A compiled model on disk.

    ``functions`` counts its fused functions, ``tuned`` those scheduled from a tuning record; ``untuned`` names
    those that have none, although tuning could find one, ``fallbacks`` those that no schedule of ours covers
    (correct, but slow), ``slow`` those that were seen to run far below what their work explains
    (None where nothing was timed).
    ``compile_sec`` and ``tune_sec`` are wall-clock seconds as the caller saw them. ``device_code``
    says what a library for a GPU holds: machine code, or source that the device compiles.
    """

    path: Path
    runtime: str
    functions: int
    tuned: int
    fallbacks: tuple[str, ...]
    compile_sec: float
    tune_sec: float
    device_code: str | None = None
    slow: tuple[str, ...] | None = None
    untuned: tuple[str, ...] = ()


class Model(Protocol):
    """A model ready to run in this process; one input, one output."""

    @property
    def input_name(self) -> str: ...

    @property
    def input_shape(self) -> tuple[int, ...]:
        """-1 where an extent is only known at run time."""
        ...

    @property
    def input_dtype(self) -> str: ...

    @property
    def output_shape(self) -> tuple[int, ...]:
        """-1 where an extent is only known at run time."""
        ...

    @property
    def device(self) -> str:
        """Where it runs: ``cpu`` or ``cuda``."""
        ...

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The output for input ``x``, which must have the input's shape and dtype."""
        ...

    def bind(self, x: np.ndarray) -> Callable[[], None]:
        """A function that runs the network once on ``x``, without copying it again."""
        ...


@dataclass(frozen=True)
class CudaRun:
    """One run on a CUDA device, over when its result is there. Not run on a GPU so far.

    ``launched_singly`` says why its kernels are launched one by one; None where they are launched as one CUDA graph.
    """

    launch: Callable[[], object]
    wait: Callable[[], object]
    launched_singly: str | None

    def __call__(self) -> None:
        self.launch()
        self.wait()


def first_line(error: BaseException) -> str:
    """Of its message; its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def checked_input(model: Model, x: np.ndarray) -> np.ndarray:
    """``x`` as a contiguous array; InvalidValueError where its shape or dtype does not fit."""
    fits = x.ndim == len(model.input_shape) and all(
        want in (-1, have) for want, have in zip(model.input_shape, x.shape, strict=True)
    )
    if not fits or str(x.dtype) != model.input_dtype:
        raise InvalidValueError(
            f"input {model.input_name} must be {model.input_dtype} {model.input_shape}, but got {x.dtype} {x.shape}"
        )
    return np.ascontiguousarray(x)


class Backend(Protocol):
    """What a file of this folder provides, as module-level functions.

    ``SOURCE_SUFFIX`` is what it compiles: ``.onnx``, or ``.pt2`` for a program of ``torch.export``.
    """

    SOURCE_SUFFIX: str

    def unavailable_reason(self) -> str | None:
        """None where the backend is usable; else what is missing and the command for it."""
        ...

    def version(self) -> str:
        """The version of the runtime behind the backend."""
        ...

    def start(self, num_threads: int = 1) -> None:
        """Loads the runtime into this process, as the first `open_model` would."""
        ...

    def compile_model(
        self,
        source: Path,
        out_dir: Path,
        *,
        tvm_target: Mapping[str, object],
        num_threads: int = 1,
        tune_budget_sec: float = 0.0,
        records_path: Path | None = None,
        on_progress: ProgressCallback | None = None,
        seed: int = 0,
    ) -> CompiledModel:
        """Compiles a model into ``out_dir``, atomically.

        Raises CompileError when it cannot: UnsupportedOperatorError, naming what to use instead, for
        an operator or a kind of file that is not the backend's.
        """
        ...

    def open_model(self, path: Path, *, num_threads: int = 1) -> Model:
        """What `compile_model` wrote, ready to run; CompileError when it cannot be loaded."""
        ...
