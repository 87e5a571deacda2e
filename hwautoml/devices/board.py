"""One TVM RPC session with a board, and models that live on it. Used in the child process ``rpc_worker``.

Every method may raise ``tvm.error.RPCError`` (the board lives and says what went wrong) and
``tvm.error.InternalError`` (the connection is lost).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwautoml.compilers import board_runtimes, traits_of
from hwautoml.compilers.base import checked_input
from hwautoml.devices.agent import AGENT_COMMAND, PREFIX
from hwautoml.devices.agent_models import is_agents, runtime_here, runtime_of
from hwautoml.errors import CompileError, HwAutoMLError, InvalidValueError, MissingDependencyError

if TYPE_CHECKING:
    import tvm
    from tvm.rpc.client import RPCSession

_TIMED = "hwautoml_timed"
#: What our own backend says, and what TVM says, on a board whose TVM has no CUDA.
_SIGNS_OF_NO_CUDA = ("is compiled for a CUDA device", "created using {cuda}")
_BIG_CORES = 1  # TVM's affinity mode: the fastest cores first


class Board:
    """What the agent offers is used where there is one; any TVM RPC server does."""

    def __init__(self, session: RPCSession, num_threads: int, runtime: str) -> None:
        """``runtime`` opens files whose names don't say what does.

        Raises InvalidValueError when the board has fewer cores than ``num_threads``.
        """
        self._session, self._runtime = session, runtime
        self._functions: dict[str, Any] = {}
        self._device = session.cpu(0)
        self._numbers = count()
        self._machine = self._describe_machine(board_runtimes()[0])
        self._cores: list[int] | None = None
        self._num_threads = num_threads
        if self._machine["agent"]:
            self._cores = json.loads(str(self._call(PREFIX + "pin", num_threads)))
            if not self._cores:
                raise InvalidValueError(
                    f"num_threads must be between 1 and {self._machine['num_allowed_cores']}, the cores that the "
                    f"board's agent may use, got {num_threads}"
                )
        else:
            self._call("runtime.config_threadpool", _BIG_CORES, num_threads)

    def conditions(self, runtime: str) -> dict[str, object]:
        """The board's machine as it is now; unknown values are None where the board runs another server."""
        if is_agents(runtime):
            self._require_agent(runtime)
        own = {"affinity": self._cores, "num_allowed_cores": self._machine["num_allowed_cores"]}  # before it was pinned
        return self._describe_machine(runtime) | own

    @contextmanager
    def time_limit(self, seconds: float) -> Iterator[None]:
        """The agent ends a session that takes longer: nobody could free the board from a hung kernel otherwise.

        An error leaves this block only when the board still answers: it may have been the session's end.
        """
        import tvm

        self._call(PREFIX + "limit_time", float(seconds))
        try:
            yield
        except (tvm.error.RPCError, HwAutoMLError):
            self._session.get_function("tvm.rpc.server.upload")
            self._call(PREFIX + "limit_time", 0.0)
            raise
        self._call(PREFIX + "limit_time", 0.0)

    def upload(self, path: Path) -> str:
        """Its name on the board, new each time: the board's loader takes a known name for the same library."""
        suffix = traits_of(runtime_of(path, self._runtime)).suffix
        name = f"{next(self._numbers)}-{path.stem}{suffix}"
        try:
            content = bytearray(path.read_bytes())
        except OSError as error:
            raise CompileError(f"{path} cannot be read: {error.strerror}") from error
        self._session.upload(content, name)
        return name

    def try_loading(self, name: str) -> dict[str, object]:
        """``load_ms`` and ``peak_memory_bytes`` of an uploaded library, as the board sees them; empty where unknown.

        Raises CompileError for a file that the board cannot load.
        """
        with _loading(name):
            figures: dict[str, object] = json.loads(
                str(self._call(PREFIX + "try_loading", name, self._num_threads) or "{}")
            )
        return figures

    def load(self, name: str) -> RemoteModel | RemoteAgentModel:
        """What was uploaded, whose file is then removed: a library in TVM, other files in the agent's own runtimes.

        Raises CompileError for a file that the board cannot load, MissingDependencyError for one compiled for a CUDA
        device where the board's TVM has none, InvalidValueError for a file of the agent's where the board runs another
        server.
        """
        from tvm import relax

        if is_agents(runtime_here(name)):
            return self._load_in_agent(name)
        with _loading(name):
            library, device = self._session.load_module(name), self._device
            machine = relax.VirtualMachine(library, device)
            description = json.loads(str(machine["describe"]()))
            if description.get("device") == "cuda":  # not run on a GPU so far
                device = self._session.cuda(0)
                if not device.exist:
                    raise _no_cuda(name)
                machine = relax.VirtualMachine(library, device)
        self._session.remove(name)
        return RemoteModel(device, *_signature(description), machine)

    def _load_in_agent(self, name: str) -> RemoteAgentModel:
        self._require_agent(runtime_here(name))
        with _loading(name):
            description = json.loads(str(self._call(PREFIX + "onnx_open", name, self._num_threads)))
        self._session.remove(name)
        return RemoteAgentModel(self._device, *_signature(description), self._call, name)

    def _require_agent(self, runtime: str) -> None:
        if not self._machine["agent"]:
            raise InvalidValueError(
                f"the board runs another server than our agent, which has no {runtime}", fix=f"there: {AGENT_COMMAND}"
            )

    def num_preemptions(self) -> int:
        return int(self._call(PREFIX + "num_preemptions") or 0)

    def _describe_machine(self, runtime: str) -> dict[str, object]:
        described = self._call(PREFIX + "conditions", runtime)
        if described is not None:
            return {**json.loads(str(described)), "agent": True}
        cpu, triple = self._call("target.llvm_get_system_cpu"), self._call("target.llvm_get_system_triple")
        fields = ("gpu", "num_cores", "num_allowed_cores", "governor", "os", "python_version", "load_average")
        unknown = dict.fromkeys(fields)
        return {
            "cpu": None if cpu is None else str(cpu),
            "machine": None if triple is None else str(triple).split("-")[0],
            **unknown,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "runtime_version": None,
            "fingerprint": None,
            "agent": False,
        }

    def _call(self, name: str, *arguments: object) -> Any:
        """None where the board's server lacks the function."""
        if name not in self._functions:
            try:
                self._functions[name] = self._session.get_function(name)
            except AttributeError:
                self._functions[name] = None
        function = self._functions[name]
        return None if function is None else function(*arguments)


def _signature(description: Mapping[str, Any]) -> tuple[str, tuple[int, ...], str, tuple[int, ...]]:
    """``input_name`` to ``output_shape`` of a model on the board."""
    return (
        str(description["input_name"]),
        tuple(description["input_shape"]),
        str(description["input_dtype"]),
        tuple(description["output_shape"]),
    )


@dataclass(frozen=True)
class _OnBoard:
    """What models on a board have in common: one input, one output."""

    device: Any
    input_name: str
    input_shape: tuple[int, ...]
    input_dtype: str
    output_shape: tuple[int, ...]

    @property
    def device_name(self) -> str:
        """``cpu`` or ``cuda``."""
        return "cuda" if "cuda" in str(self.device) else "cpu"

    def _tensor(self, x: np.ndarray) -> tvm.runtime.Tensor:
        import tvm

        return tvm.runtime.tensor(checked_input(self, x), self.device)


@dataclass(frozen=True)
class RemoteModel(_OnBoard):
    """A library in TVM's virtual machine on the board."""

    machine: Any

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The output for ``x``; InvalidValueError where its shape or dtype does not fit."""
        self.machine.set_input("main", self._tensor(x))
        self.machine.invoke_stateful("main")
        return self.machine.get_outputs("main").numpy()

    def bind(self, x: np.ndarray) -> Callable[[], None]:
        """Runs on ``x``, which stays on the board, as do the outputs; it is what ``time_ns`` times."""
        self.machine.save_function("main", _TIMED, self._tensor(x), include_return=False)
        run_once: Callable[[], None] = self.machine[_TIMED]
        return run_once

    def time_ns(self, number: int, repeat: int = 1) -> list[float]:
        """Nanoseconds per run, ``repeat`` times the mean of ``number`` runs, after one that is not timed.

        The board's own clock around a loop on the board: no network is in it.
        """
        results = self.machine.time_evaluator(_TIMED, self.device, number=number, repeat=repeat)().results
        return [max(1e9 * seconds, 1e-3) for seconds in results]

    def close(self) -> None:
        """The board frees what the last reference to the machine holds."""


@dataclass(frozen=True)
class RemoteAgentModel(_OnBoard):
    """A model in a runtime of the board's agent. As ``RemoteModel``."""

    call: Callable[..., Any]
    name: str

    def __call__(self, x: np.ndarray) -> np.ndarray:
        result: np.ndarray = self.call(PREFIX + "onnx_run", self.name, self._tensor(x)).numpy()
        return result

    def bind(self, x: np.ndarray) -> Callable[[], None]:
        self.call(PREFIX + "onnx_bind", self.name, self._tensor(x))
        return lambda: None  # binding ran it

    def time_ns(self, number: int, repeat: int = 1) -> list[float]:
        times = json.loads(str(self.call(PREFIX + "onnx_time", self.name, number, repeat)))
        return [float(nanoseconds) for nanoseconds in times]

    def close(self) -> None:
        self.call(PREFIX + "onnx_close", self.name)


@contextmanager
def _loading(name: str) -> Iterator[None]:
    import tvm

    try:
        yield
    except (tvm.error.RPCError, AttributeError, ValueError) as error:
        if any(sign in str(error) for sign in _SIGNS_OF_NO_CUDA):
            raise _no_cuda(name) from error
        raise CompileError(
            f"{name.partition('-')[2]} cannot be loaded on the board: {remote_reason(error)}",
            fix=None if is_agents(runtime_here(name)) else "compile it for the [tvm] table of the board's own target",
        ) from error


def _no_cuda(name: str) -> MissingDependencyError:
    return MissingDependencyError(
        f"{name.partition('-')[2]} is compiled for a CUDA device, and the board's TVM finds none",
        fix="there: NVIDIA's driver, and a TVM with its CUDA runtime; or another --target",
    )


def remote_reason(error: BaseException) -> str:
    """The line that says what happened; TVM puts a heading before it and a stack behind it."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(("RPCError:", "Stack trace", "File "))]
    return re.sub(r"^Check failed: \(.*?\) is false: ", "", told[0])[:500] if told else type(error).__name__
