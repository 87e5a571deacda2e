"""Runtimes of a board besides TVM, for the clients of its agent: what they call by name, in the session's own process.

TVM's RPC carries the calls and the tensors. A model is known by the name of the file that was uploaded, whose suffix
says which runtime opens it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hwautoml.compilers import board_runtimes, load_backend, owner_of, traits_of
from hwautoml.compilers.base import Model
from hwautoml.devices.running import sample
from hwautoml.errors import MissingDependencyError

if TYPE_CHECKING:
    import tvm


def runtime_of(path: str | Path, otherwise: str) -> str:
    """What runs a file on a board, by its name; files of other names are for the device's own runtime."""
    owner = owner_of(Path(path).suffix)
    return owner if owner in board_runtimes() else otherwise


def is_agents(runtime: str) -> bool:
    """Whether it is our agent that runs it, rather than any RPC server of TVM's."""
    return traits_of(runtime).on_boards == "agent"


def runtime_here(name: str) -> str:
    """What opens an uploaded file."""
    return runtime_of(name, board_runtimes()[0])


@dataclass
class _Opened:
    model: Model
    run_once: Callable[[], None]


_opened: dict[str, _Opened] = {}


def require_installed(runtime: str) -> None:
    """Raises MissingDependencyError with the command for the board."""
    backend = load_backend(runtime)
    if backend.unavailable_reason() is not None:
        packages = " ".join(backend.TRAITS.packages.values())
        raise MissingDependencyError(f"{runtime} is not installed on the board; run there: pip install {packages}")


# The functions' names are the protocol's, from when ONNX Runtime was the only such runtime.


def onnx_open(name: str, num_threads: int) -> str:
    """Input and output of the uploaded model, as JSON. The file is removed by whoever uploaded it."""
    import tvm_ffi

    runtime = runtime_here(name)
    require_installed(runtime)
    path = Path(str(tvm_ffi.get_global_func("tvm.rpc.server.workpath")(name)))
    model = load_backend(runtime).open_model(path, num_threads=num_threads)
    _opened[name] = _Opened(model, lambda: None)
    fields = ("input_name", "input_shape", "input_dtype", "output_shape")
    return json.dumps({field: getattr(model, field) for field in fields})


def onnx_bind(name: str, x: tvm.runtime.Tensor) -> None:
    """The input that `onnx_time` runs on, which stays here, as does the output. Runs once."""
    opened = _opened[name]
    opened.run_once = opened.model.bind(x.numpy())
    opened.run_once()


def onnx_time(name: str, number: int, repeat: int) -> str:
    """Nanoseconds per run, ``repeat`` times the mean of ``number`` runs, after one that is not timed, as JSON."""
    run_once = _opened[name].run_once
    run_once()
    return json.dumps([sample(run_once, number)[0] / number for _ in range(repeat)])


def onnx_run(name: str, x: tvm.runtime.Tensor) -> tvm.runtime.Tensor:
    """The output for ``x``."""
    import tvm

    return tvm.runtime.tensor(_opened[name].model(x.numpy()))


def onnx_close(name: str) -> None:
    """Forgets the model."""
    _opened.pop(name, None)


FUNCTIONS = (onnx_open, onnx_bind, onnx_time, onnx_run, onnx_close)
