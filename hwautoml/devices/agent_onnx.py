"""ONNX Runtime on a board, for the clients of its agent: what they call by name, in the session's own process.

TVM's RPC carries the calls and the tensors. A model is known by the name of the file that was uploaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hwautoml.devices.worker import _sample
from hwautoml.errors import MissingDependencyError

if TYPE_CHECKING:
    import tvm

    from hwautoml.compilers._onnxruntime import OnnxRuntimeModel

RUNTIME, SUFFIX = "onnxruntime", ".onnx"
INSTALL = "pip install onnxruntime onnx"


def runtime_of(path: Path, otherwise: str) -> str:
    """What runs a file, by its name; files of other names are for the device's own runtime."""
    return {SUFFIX: RUNTIME, ".so": "tvm"}.get(path.suffix, otherwise)


@dataclass
class _Opened:
    model: OnnxRuntimeModel
    run_once: Callable[[], None]


_opened: dict[str, _Opened] = {}


def require_installed() -> None:
    """Raises MissingDependencyError with the command for the board."""
    from hwautoml.compilers.onnxruntime import unavailable_reason

    if unavailable_reason() is not None:
        raise MissingDependencyError(f"ONNX Runtime is not installed on the board; run there: {INSTALL}")


def onnx_open(name: str, num_threads: int) -> str:
    """Input and output of the uploaded model, as JSON. The file is removed by whoever uploaded it."""
    import tvm_ffi

    from hwautoml.compilers.onnxruntime import open_model

    require_installed()
    path = Path(str(tvm_ffi.get_global_func("tvm.rpc.server.workpath")(name)))
    model = open_model(path, num_threads=num_threads)
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
    return json.dumps([_sample(run_once, number)[0] / number for _ in range(repeat)])


def onnx_run(name: str, x: tvm.runtime.Tensor) -> tvm.runtime.Tensor:
    """The output for ``x``."""
    import tvm

    return tvm.runtime.tensor(_opened[name].model(x.numpy()))


def onnx_close(name: str) -> None:
    """Forgets the model."""
    _opened.pop(name, None)


FUNCTIONS = (onnx_open, onnx_bind, onnx_time, onnx_run, onnx_close)
