"""The process that compiles and tunes with TVM: ``python -m hwautoml.compilers._tvm_worker``.

Reads JSON requests from stdin, one a line, and writes events to stdout, one JSON object a line:
``progress`` (done, total, message), ``trial`` (the candidate about to be timed), and at the end of
each request ``result`` or ``error``. It may die at any time; `hwautoml.compilers._tvm_process` copes.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from hwautoml.compilers._files import read_onnx, replaced_atomically
from hwautoml.compilers._tvm_import import import_tvm
from hwautoml.compilers._tvm_request import CompileRequest
from hwautoml.errors import CompileError, HwAutoMLError

if TYPE_CHECKING:
    import tvm

    from hwautoml.compilers._tvm_link import Linker
    from hwautoml.schedules.dispatch import Machine
    from hwautoml.schedules.library import ScheduleReport
    from hwautoml.schedules.records import Records

_LOGGER = logging.getLogger(__name__)
#: Name of the function in a library that returns its description as JSON.
DESCRIBE = "describe"


class _Events:
    """Writes events to the stream that the parent reads; each puts off the alarm that ends a stuck worker.

    The alarm is the kernel's, whose default action ends the process even inside a hung native call.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._silence_sec = 0.0

    def expect(self, silence_sec: float) -> None:
        """From now on an event is due at least this often; 0 expects none."""
        self._silence_sec = silence_sec
        signal.setitimer(signal.ITIMER_REAL, silence_sec)

    def send(self, event: str, **fields: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, self._silence_sec)
        self._stream.write(json.dumps({"event": event, **fields}) + "\n")
        self._stream.flush()


def main() -> int:
    """Serves the requests on stdin until it ends."""
    # What TVM, LLVM or a linker print must not get between the events.
    events = _Events(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    for line in sys.stdin:
        request = CompileRequest.from_json(line)
        events.expect(request.silence_sec)
        import_tvm(request.num_threads)
        try:
            result = _serve(request, events)
        except HwAutoMLError as error:
            events.expect(0)
            events.send("error", kind=type(error).__name__, message=error.message, fix=error.fix)
        else:
            events.expect(0)
            events.send("result", **result)
    return 0


def _serve(request: CompileRequest, events: _Events) -> dict[str, object]:
    """Lowers, tunes if asked to, schedules, builds and writes one model."""
    from hwautoml.compilers._tvm_link import linker
    from hwautoml.schedules.dispatch import Machine
    from hwautoml.schedules.host import resolve_target
    from hwautoml.schedules.library import schedule_module
    from hwautoml.schedules.lowering import import_onnx, lower
    from hwautoml.schedules.records import Records
    from hwautoml.schedules.vector_unit import vector_unit

    model = read_onnx(request.onnx_path)
    target = resolve_target(request.target, request.num_threads)
    link = linker(target)  # before minutes of work: it may be missing
    imported = import_onnx(model, str(request.onnx_path))
    description = _describe(imported, target)
    if target.kind.name == "cuda":
        return _serve_cuda(request, events, imported, target, description, link)
    records = Records.load(request.records_path)
    module = lower(imported, target, str(request.onnx_path))
    machine = Machine(vector_unit(target), request.num_threads)
    _record_crashes(request, target, records)
    tune_sec = _tune(request, events, module, target, machine, records)
    module, report = schedule_module(module, machine, records.tilings(str(target)))
    events.send("progress", done=0, total=1, message="building")
    _build(module, target, description, request.out_path, link)
    return _result(report, tune_sec)


def _serve_cuda(
    request: CompileRequest, events: _Events, module: tvm.IRModule, target: tvm.target.Target,
    description: Mapping[str, object], link: Linker | None,
) -> dict[str, object]:
    """TVM's own GPU schedules; nothing is tuned."""
    from hwautoml.compilers._tvm_cuda import embed_binaries, lower_for_cuda
    from hwautoml.schedules.library import functions_of

    device_code = embed_binaries(target)
    events.send("progress", done=0, total=1, message="building")
    with _build_errors():
        lowered = lower_for_cuda(_with_description(module, description), target)
    _export(lowered, None, target, request.out_path, link)
    functions = len(functions_of(lowered))
    return {"functions": functions, "tuned": 0, "fallbacks": [], "tune_sec": 0.0, "device_code": device_code}


def _result(report: ScheduleReport, tune_sec: float) -> dict[str, object]:
    return {
        "functions": len(report.tuned) + len(report.by_rule) + len(report.fallbacks),
        "tuned": len(report.tuned),
        "fallbacks": list(report.fallbacks),
        "tune_sec": tune_sec,
        "device_code": None,
    }


def _record_crashes(request: CompileRequest, target: tvm.target.Target, records: Records) -> None:
    """Marks what ended earlier workers, so that no later tuning tries it either."""
    from hwautoml.schedules.records import Record
    from hwautoml.schedules.tiling import Tiling

    for trial in request.crashed:
        known = records.get(str(target), trial.key) or Record(trial.name)
        crashed = dict.fromkeys((*known.crashed, Tiling.from_json(trial.tiling)))
        records.put(str(target), trial.key, replace(known, crashed=tuple(crashed)))
    if request.crashed:
        records.save()


def _tune(
    request: CompileRequest,
    events: _Events,
    module: tvm.IRModule,
    target: tvm.target.Target,
    machine: Machine,
    records: Records,
) -> float:
    """Tunes for the requested time where the target can run here; returns the seconds spent."""
    from hwautoml.schedules.host import is_host
    from hwautoml.schedules.tiling import Tiling
    from hwautoml.schedules.tuner import Tuner

    if request.tune_budget_sec <= 0:
        return 0.0
    if not is_host(target):
        _LOGGER.warning("%s cannot be timed on this machine: fixed rule, no tuning", target)
        return 0.0
    started = time.perf_counter()
    tuner = Tuner(module, target, machine, records, request.seed)
    total = sum(len(task.order) for task in tuner.tasks.values())

    def on_trial(key: str, name: str, tiling: Tiling, done: int) -> None:
        events.send("trial", key=key, name=name, tiling=tiling.to_json(), done=done, total=total)

    tuner.run(request.tune_budget_sec, on_trial)
    return time.perf_counter() - started


def _describe(module: tvm.IRModule, target: tvm.target.Target) -> dict[str, object]:
    """Name, shape and dtype of the input, shape of the output, and where it runs, of an imported module."""
    function = module["main"]
    (parameter,) = function.params
    return {
        "input_name": str(parameter.name),
        "input_shape": _shape(parameter.ty),
        "input_dtype": str(parameter.ty.dtype),
        "output_shape": _shape(function.ret_ty),
        "device": "cuda" if target.kind.name == "cuda" else "cpu",
    }


def _shape(tensor_type: tvm.ir.Type) -> list[int]:
    from tvm import tirx

    extents = getattr(tensor_type.shape, "values", None)
    if extents is None:
        raise CompileError("the rank of an input or output is not known at compile time")
    return [int(extent) if isinstance(extent, tirx.IntImm) else -1 for extent in extents]


def _with_description(module: tvm.IRModule, description: Mapping[str, object]) -> tvm.IRModule:
    """The module with a function that returns its description as JSON."""
    import tvm
    from tvm import relax

    builder = relax.BlockBuilder(module)
    with builder.function(DESCRIBE, []):
        builder.emit_func_output(tvm.ir.StringImm(json.dumps(description)))
    return builder.get()


def _build(
    module: tvm.IRModule, target: tvm.target.Target, description: Mapping[str, object], out_path: Path,
    link: Linker | None,
) -> None:
    """Compiles a scheduled module for CPUs and writes the library, description included."""
    import tvm
    from tvm.relax.backend.cpu_generic import pipeline

    passes = [*pipeline.dataflow_lower_passes(target), *pipeline.finalize_passes(target)]
    _export(_with_description(module, description), tvm.transform.Sequential(passes), target, out_path, link)


def _export(
    module: tvm.IRModule, passes: tvm.transform.Pass | None, target: tvm.target.Target, out_path: Path,
    link: Linker | None,
) -> None:
    import tvm

    with _build_errors(), target:
        executable = tvm.compile(module, target=target, relax_pipeline=passes)
        with replaced_atomically(out_path) as temporary:
            executable.export_library(str(temporary), fcompile=link)


@contextmanager
def _build_errors() -> Iterator[None]:
    import tvm

    try:
        yield
    except (tvm.error.InternalError, RuntimeError, ValueError, TypeError) as error:
        raise CompileError(f"TVM could not build the model: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
