"""The contract of a runtime: what a file of this folder, or another package's module, provides.

A runtime is a module (or an object) with ``TRAITS``, which describe it, and the five functions of `Backend`. Nothing
else in this package knows runtimes by their names: whoever wants to know something of one asks its traits. Step by
step, with a package to copy: docs/extending/runtime.md. `hwautoml.testing.runtimes` checks that the contract is kept.

Life of a model::

    backend = load_backend("tvm")                       # found by name, imported now
    backend.unavailable_reason()                        # None, or what to install
    compiled = backend.compile(source, out, target)     # one file, in ``out``
    model = backend.open_model(compiled.path)           # as a rule in another process, maybe another day
    model(x)                                            # (n, ...) to (n, ...)
    model.bind(x)()                                     # the same without the result: this is what is timed
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from hwautoml.core.target import PRECISIONS, Target
from hwautoml.errors import InvalidValueError

PLACES = ("cpu", "cuda")
#: Ways of boards: TVM's own RPC server opens the files, or our agent does with the runtime installed there.
ON_BOARDS = ("server", "agent")

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
    tuned: int = 0
    fallbacks: tuple[str, ...] = ()
    compile_sec: float = 0.0
    tune_sec: float = 0.0
    device_code: str | None = None
    slow: tuple[str, ...] | None = None
    untuned: tuple[str, ...] = ()


class Signature(Protocol):
    """What a model takes."""

    @property
    def input_name(self) -> str: ...

    @property
    def input_shape(self) -> tuple[int, ...]:
        """-1 where an extent is only known at run time."""
        ...

    @property
    def input_dtype(self) -> str:
        """As numpy calls it."""
        ...


class Model(Signature, Protocol):
    """A model ready to run in this process; one input, one output."""

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


def checked_input(model: Signature, x: np.ndarray) -> np.ndarray:
    """``x`` as a contiguous array; InvalidValueError where its shape or dtype does not fit."""
    fits = x.ndim == len(model.input_shape) and all(
        want in (-1, have) for want, have in zip(model.input_shape, x.shape, strict=True)
    )
    if not fits or str(x.dtype) != model.input_dtype:
        raise InvalidValueError(
            f"input {model.input_name} must be {model.input_dtype} {model.input_shape}, but got {x.dtype} {x.shape}"
        )
    return np.ascontiguousarray(x)


@dataclass(frozen=True)
class BoardRoute:
    """Where candidates are timed: a board's agent, or a tracker's boards of ``key``; ``cpu`` as the board names it."""

    host: str
    port: int
    key: str
    is_tracker: bool
    cpu: str

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Tuning:
    """How a tunable runtime looks for better code.

    ``budget_sec`` of wall-clock time go into it. What is found is kept in ``records``, which later compilations (of
    any network with the same functions) read, whatever their budget: with none of it they only look things up. With a
    ``board`` candidates are timed there, and its records are looked up.
    """

    records: Path | None = None
    budget_sec: float = 0.0
    seed: int = 0
    board: BoardRoute | None = None

    def __post_init__(self) -> None:
        if not self.budget_sec >= 0:
            raise InvalidValueError(f"tuning: budget_sec >= 0 must hold, but got {self.budget_sec}")


class Compiler(Protocol):
    """Compiles many models; as many threads as it was opened for may call it at once."""

    def compile(
        self,
        source: Path,
        out: Path,
        target: Target,
        tuning: Tuning | None = None,
        *,
        on_progress: ProgressCallback | None = None,
    ) -> CompiledModel:
        """As `Backend.compile`."""
        ...

    def close(self) -> None:
        """Ends its processes; so does forgetting it."""
        ...


@dataclass(frozen=True)
class Traits:
    """What a runtime says of itself.

    What it is given and gives:

    - ``name``: how targets, tables, results and ``--runtime`` call it.
    - ``source_suffix``: of the files it compiles: ``.onnx``, or ``.pt2`` for programs of ``torch.export``.
    - ``file_name``: of what ``compile`` writes into its folder. Runtimes that ship have different ones, unless what
      they open is the very same file.
    - ``opens_source_on``: the places where ``open_model`` takes the source itself, so that ``compile`` only checks and
      copies it.
    - ``own_suffixes``: files that it runs unless the user names another runtime. The owner of a ``source_suffix`` is
      also the reference of all runtimes that compile such files: they must compute what it computes.

    Where it runs:

    - ``places``: ``cpu``, ``cuda`` (NVIDIA GPUs).
    - ``precisions`` it runs everywhere, and ``cuda_precisions`` on GPUs besides. int8 is what
      ``exporters.quantization`` writes, fp16 and bf16 what ``exporters.half_precision`` does.
    - ``on_boards``: how boards over the network run it, one of ``ON_BOARDS``; None where they don't. What the agent
      runs is known by its suffix, which must be the runtime's own.
    - ``packages``: what must be installed, by module: the pip requirement.

    What ships:

    - ``ships_as``: the file's name in a bundle; None where networks are measured on it, and not shipped.
    - ``opener``: a stand-alone Python program that goes into bundles with it, and imports nothing of this package: its
      ``open_model(path, num_threads)`` returns a function from uint8 (1, H, W, C) to probabilities (1, num_classes).
      None for runtimes that the bundle's runner knows itself.
    - ``parity_tolerance``: by how much probabilities may differ from the trained network's, absolutely.

    What its latencies are made of:

    - ``reads_weights``: a run reads, and converts, a layer's weights anew, instead of packing them once. A layer's
      time then depends on what else is in the caches.
    - ``channels_last_in``: precisions in which, on processors, maps between two layers lie channels last, so that
      layers are measured that way.
    - ``code_version``: of code of ours that its latencies depend on, such as ``+schedules5``. Tables of another
      version are not used. Empty where a runtime's own version says it all.

    How it compiles:

    - ``tunes_on``: places for which ``compile`` takes a ``Tuning``; it refuses one for others.
    - ``max_parallel``: how many may be compiled at once.
    - ``open_pool``: opens a compiler for so many at once, for runtimes whose start takes seconds; without it the
      module's ``compile`` is as good for hundreds of models.

    Raises:
        InvalidValueError: the traits contradict each other.
    """

    name: str
    source_suffix: str
    file_name: str
    packages: Mapping[str, str]
    opens_source_on: tuple[str, ...] = ()
    own_suffixes: tuple[str, ...] = ()
    places: tuple[str, ...] = ("cpu",)
    precisions: tuple[str, ...] = ("fp32",)
    cuda_precisions: tuple[str, ...] = ()
    on_boards: str | None = None
    ships_as: str | None = None
    opener: Path | None = None
    parity_tolerance: float = 1e-4
    reads_weights: bool = False
    channels_last_in: tuple[str, ...] = ()
    code_version: str = ""
    tunes_on: tuple[str, ...] = ()
    max_parallel: int = 1
    open_pool: Callable[[int], Compiler] | None = None

    def __post_init__(self) -> None:
        problems = [
            f"{field} must be among {allowed}, got {getattr(self, field)}"
            for field, allowed in (
                ("places", PLACES),
                ("opens_source_on", self.places),
                ("tunes_on", self.places),
                ("precisions", PRECISIONS),
                ("cuda_precisions", PRECISIONS),
                ("channels_last_in", self.precisions),
            )
            if not set(getattr(self, field)) <= set(allowed)
        ]
        if not (self.name and self.source_suffix.startswith(".") and self.suffix and self.places and self.precisions):
            problems.append("name, source_suffix, a file_name with a suffix, places and precisions must be given")
        if self.on_boards not in (None, *ON_BOARDS):
            problems.append(f"on_boards must be None or one of {ON_BOARDS}, got {self.on_boards!r}")
        if self.on_boards == "agent" and self.suffix not in self.own_suffixes:
            problems.append(f"on boards files are known by {self.suffix}, which must be among own_suffixes")
        if not self.parity_tolerance > 0 or self.max_parallel < 1:
            problems.append("parity_tolerance > 0 and max_parallel >= 1 must hold")
        if problems:
            raise InvalidValueError(f"traits of runtime {self.name!r}: " + "; ".join(problems))

    @property
    def suffix(self) -> str:
        """Of what ``compile`` writes."""
        return Path(self.file_name).suffix

    def runs_on(self, target: Target) -> bool:
        return place_of(target) in self.places

    def runs(self, precision: str, target: Target) -> bool:
        """Whether networks in that precision run on it, on the target's kind of device."""
        return precision in self.precisions or (target.is_cuda and precision in self.cuda_precisions)

    def opens_source(self, target: Target) -> bool:
        """Whether nothing needs to be compiled for the target: the source is what ``open_model`` takes."""
        return place_of(target) in self.opens_source_on

    def is_tunable(self, target: Target) -> bool:
        return place_of(target) in self.tunes_on

    def artifact_name(self, precision: str = "fp32") -> str:
        """Where the file of a network in that precision lies in the network's own folder."""
        if precision == "fp32":
            return self.file_name
        path = Path(self.file_name)
        return f"{path.stem}_{precision}{path.suffix}" if self.opens_source_on else f"{precision}/{self.file_name}"


def place_of(target: Target) -> str:
    """The one of ``PLACES`` where a target's networks run."""
    return "cuda" if target.is_cuda else "cpu"


def missing_packages(modules: Mapping[str, str]) -> str | None:
    """What to install for the modules (name to pip requirement) that are absent, or None."""
    absent = [package for name, package in modules.items() if not importlib.util.find_spec(name)]
    if not absent:
        return None
    return f"not installed: {', '.join(absent)}; run: pip install {' '.join(absent)}"


def require_no_tuning(traits: Traits, target: Target, tuning: Tuning | None) -> None:
    """Raises InvalidValueError for a ``Tuning`` where there is nothing to tune: it would have no effect."""
    if tuning is not None and not traits.is_tunable(target):
        raise InvalidValueError(
            f"{traits.name} has nothing to tune for target {target.name}", fix="leave the tuning out (--tune 0s)"
        )


class Backend(Protocol):
    """What a runtime provides: a module's constant and functions, or an object's."""

    @property
    def TRAITS(self) -> Traits: ...

    def unavailable_reason(self) -> str | None:
        """None where the runtime is usable here; else what is missing and the command for it.

        `missing_packages` of ``TRAITS.packages`` is the answer where nothing but packages is needed.
        """
        ...

    def version(self) -> str:
        """The version of the runtime; tables of another version are not used."""
        ...

    def start(self, num_threads: int = 1) -> None:
        """Loads the runtime into this process, as the first `open_model` would."""
        ...

    def compile(
        self,
        source: Path,
        out: Path,
        target: Target,
        tuning: Tuning | None = None,
        *,
        on_progress: ProgressCallback | None = None,
    ) -> CompiledModel:
        """Compiles a model for ``target``, its number of threads included, into ``out / TRAITS.file_name``, atomically.

        Raises:
            CompileError: it cannot, naming the file. UnsupportedOperatorError, naming what to use instead, for an
                operator or a kind of file that is not the runtime's.
            InvalidValueError: a ``tuning`` where there is nothing to tune (`require_no_tuning`).
        """
        ...

    def open_model(self, path: Path, *, num_threads: int = 1) -> Model:
        """What `compile` wrote, ready to run, under whatever name it has now.

        Called in a process of its own where models are timed, so this must find all it needs in the file.

        Raises:
            CompileError: it cannot be loaded, naming the file.
        """
        ...
