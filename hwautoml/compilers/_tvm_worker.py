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
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

from hwautoml.compilers._files import read_onnx, unique_name
from hwautoml.compilers._tvm_import import import_tvm
from hwautoml.compilers._tvm_request import CompileRequest
from hwautoml.core.children import hold_lifeline
from hwautoml.core.storage import full_disk_error, replaced_atomically
from hwautoml.errors import CompileError, HwAutoMLError, StorageError

if TYPE_CHECKING:
    import onnx
    import tvm

    from hwautoml.compilers._tvm_link import Linker
    from hwautoml.schedules.dispatch import Machine
    from hwautoml.schedules.library import ScheduleReport
    from hwautoml.schedules.records import Records

_LOGGER = logging.getLogger("hwautoml.compilers._tvm_worker")  # whatever this process calls its main module
#: Name of the function in a library that returns its description as JSON.
DESCRIBE = "describe"
_READING_SHARE = 0.3
#: A candidate that takes longer than this to build and time is none: most take tenths of a second.
_TRIAL_SILENCE_SEC = 30.0


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


class _Warnings(logging.Handler):
    """Our own warnings become events: what the process prints is read only when it has crashed."""

    def __init__(self, events: _Events) -> None:
        super().__init__(logging.WARNING)
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        self._events.send("log", message=record.getMessage())


def main() -> int:
    """Serves the requests on stdin until it ends."""
    hold_lifeline()
    # What TVM, LLVM or a linker print must not get between the events.
    events = _Events(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    logging.getLogger("hwautoml").addHandler(_Warnings(events))
    for line in sys.stdin:
        request = CompileRequest.from_json(line)
        events.expect(request.silence_sec)
        import_tvm(request.num_threads)
        try:
            result = _serve(request, events)
        except HwAutoMLError as error:
            events.expect(0)
            is_full = isinstance(error, StorageError) and error.is_full
            events.send("error", kind=type(error).__name__, message=error.message, fix=error.fix, is_full=is_full)
        else:
            events.expect(0)
            events.send("result", **result)
    return 0


def _serve(request: CompileRequest, events: _Events) -> dict[str, object]:
    """Lowers, tunes if asked to, schedules, builds and writes one model."""
    from hwautoml.compilers._tvm_link import linker
    from hwautoml.schedules.arena import in_one_arena
    from hwautoml.schedules.dispatch import Machine
    from hwautoml.schedules.host import resolve_target
    from hwautoml.schedules.library import schedule_module
    from hwautoml.schedules.lowering import import_onnx, lower
    from hwautoml.schedules.records import Records
    from hwautoml.schedules.vector_unit import vector_unit

    model = read_onnx(request.onnx_path)
    target = resolve_target(request.target, request.num_threads)
    if target.kind.name == "cuda":
        return _serve_cuda(request, events, model, target)
    records = Records.load(request.records_path)
    machine = Machine(vector_unit(target), request.num_threads)
    _record_crashes(request, target, records)
    if request.out_path is None:
        return _tune_functions(request, events, target, machine, records)
    link = linker(target)  # before minutes of work: it may be missing
    imported = import_onnx(model, str(request.onnx_path))
    description = _describe(imported, target)
    module = lower(imported, target, str(request.onnx_path))
    tuned = _tune(request, events, [module], target, machine, records)
    scheduled, report = schedule_module(module, machine, records.tilings(_key(request, target)))
    events.send("progress", done=0, total=1, message="building")
    with _build_errors():
        whole, names = in_one_arena(scheduled, target)
    _build(whole, target, description, request.out_path, link, is_whole=bool(names))
    slow = _slow_functions(request, module, names, target, description)
    return _result(report, slow, tuned.seconds)


def _serve_cuda(
    request: CompileRequest, events: _Events, model: onnx.ModelProto, target: tvm.target.Target
) -> dict[str, object]:
    """TVM's own GPU schedules; nothing is tuned."""
    from hwautoml.compilers._tvm_cuda import embed_binaries, launches, lower_for_cuda
    from hwautoml.compilers._tvm_link import linker
    from hwautoml.schedules.library import functions_of
    from hwautoml.schedules.lowering import import_onnx

    if request.out_path is None:
        raise CompileError("our schedules are for CPUs: there is nothing to tune for a GPU")
    link = linker(target)
    imported = import_onnx(model, str(request.onnx_path))
    device_code = embed_binaries(target)
    events.send("progress", done=0, total=1, message="building")
    with _build_errors():
        lowered = lower_for_cuda(_with_description(imported, _describe(imported, target)), target)
    _export(lowered, None, target, request.out_path, link)
    return {
        "functions": len(functions_of(lowered)),
        "tuned": 0,
        "untuned": [],
        "fallbacks": [],
        "slow": None,
        "tune_sec": 0.0,
        "device_code": f"{device_code}; {launches(lowered)}",
    }


def _result(report: ScheduleReport, slow: tuple[str, ...] | None, tune_sec: float) -> dict[str, object]:
    return {
        "functions": len(report.tuned) + len(report.by_rule) + len(report.fallbacks),
        "tuned": len(report.tuned),
        "untuned": list(report.untuned),
        "fallbacks": list(report.fallbacks),
        "slow": slow,
        "tune_sec": tune_sec,
        "device_code": None,
    }


def _tune_functions(
    request: CompileRequest, events: _Events, target: tvm.target.Target, machine: Machine, records: Records
) -> dict[str, object]:
    """Tunes the distinct functions of the request's models, of which one at a time is in memory.

    As many of them as can be read in a part of the budget; the rest is for trials.
    """
    from hwautoml.schedules.lowering import import_onnx, lower

    started = time.perf_counter()

    def modules() -> Iterator[tvm.IRModule]:
        paths = (request.onnx_path, *request.further_paths)
        for index, path in enumerate(paths):
            if index and time.perf_counter() - started > _READING_SHARE * request.tune_budget_sec:
                _LOGGER.warning("read %d of %d files with functions: there is no time for more", index, len(paths))
                break
            events.send("progress", done=index, total=len(paths), message="reading functions")
            yield lower(import_onnx(read_onnx(path), str(path)), target, str(path))

    return asdict(_tune(request, events, modules(), target, machine, records))


def _slow_functions(
    request: CompileRequest,
    module: tvm.IRModule,
    names: Sequence[str],
    target: tvm.target.Target,
    description: Mapping[str, object],
) -> tuple[str, ...] | None:
    """Functions that run far below what any schedule of ours reaches; None where the target is another machine's."""
    from hwautoml.schedules.host import is_host
    from hwautoml.schedules.timing import slow_functions

    assert request.out_path is not None
    if request.board is not None or not is_host(target):
        return None
    shape = [max(1, int(extent)) for extent in cast("list[int]", description["input_shape"])]
    with unique_name(request.out_path) as library:
        slow = slow_functions(library, module, names, shape, str(description["input_dtype"]))
    for name, time_us in slow.items():
        _LOGGER.warning("%s takes %.0f us, far more than its work explains", name, time_us)
    return tuple(slow)


def _record_crashes(request: CompileRequest, target: tvm.target.Target, records: Records) -> None:
    """Marks what ended earlier workers, so that no later tuning tries it either."""
    from hwautoml.schedules.records import Record
    from hwautoml.schedules.tiling import Tiling

    key = _key(request, target)
    for trial in request.crashed:
        known = records.get(key, trial.key) or Record(trial.name)
        crashed = dict.fromkeys((*known.crashed, Tiling.from_json(trial.tiling)))
        records.put(key, trial.key, replace(known, crashed=tuple(crashed)))
    if request.crashed:
        records.save()


def _key(request: CompileRequest, target: tvm.target.Target) -> str:
    from hwautoml.schedules.host import record_key_on_board

    return record_key_on_board(target, None if request.board is None else request.board.cpu)


@dataclass(frozen=True)
class _Tuned:
    """``num_functions`` have something to choose, ``num_recorded`` of them a record; trials are those of this call."""

    num_functions: int = 0
    num_recorded: int = 0
    num_trials: int = 0
    num_left: int = 0
    seconds: float = 0.0


def _tune(
    request: CompileRequest,
    events: _Events,
    modules: Iterable[tvm.IRModule],
    target: tvm.target.Target,
    machine: Machine,
    records: Records,
) -> _Tuned:
    """Tunes for the requested time, on the board if there is one, else where the target can run here."""
    from hwautoml.schedules.host import is_host
    from hwautoml.schedules.tiling import Tiling
    from hwautoml.schedules.tuner import Tuner

    if request.tune_budget_sec <= 0:
        return _Tuned()
    if request.board is None and not is_host(target):
        _LOGGER.warning("%s cannot be timed on this machine: fixed rule, no tuning", target)
        return _Tuned()
    started = time.perf_counter()
    timer = None
    if request.board is not None:
        from hwautoml.compilers._tvm_board_timer import BoardTimer

        timer = BoardTimer(request.board, target, request.num_threads, request.seed)
    tuner = Tuner(modules, target, machine, records, request.seed, timer, _key(request, target))
    total = sum(len(task.order) for task in tuner.tasks.values())

    def on_trial(key: str, name: str, tiling: Tiling, done: int) -> None:
        events.send("trial", key=key, name=name, tiling=tiling.to_json(), done=done, total=total)

    each_first = request.out_path is None
    left_sec = max(request.tune_budget_sec - (time.perf_counter() - started), 0.0)
    events.expect(min(request.silence_sec, _TRIAL_SILENCE_SEC))
    num_trials = tuner.run(left_sec, on_trial, each_first=each_first)
    events.expect(request.silence_sec)
    records_of = [task.record for task in tuner.tasks.values()]
    return _Tuned(
        num_functions=len(records_of),
        num_recorded=sum(record.tiling is not None for record in records_of),
        num_trials=num_trials,
        num_left=total - sum(record.num_tried for record in records_of),
        seconds=time.perf_counter() - started,
    )


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
    module: tvm.IRModule,
    target: tvm.target.Target,
    description: Mapping[str, object],
    out_path: Path,
    link: Linker | None,
    *,
    is_whole: bool,
) -> None:
    """Compiles a scheduled module for CPUs and writes the library, description included."""
    from hwautoml.schedules import arena

    passes = arena.graph_passes(target, is_whole=is_whole)
    _export(_with_description(module, description), passes, target, out_path, link, tir_pipeline=arena.PIPELINE)


def _export(
    module: tvm.IRModule,
    passes: tvm.transform.Pass | None,
    target: tvm.target.Target,
    out_path: Path,
    link: Linker | None,
    *,
    tir_pipeline: str = "default",
) -> None:
    import tvm

    with _build_errors(out_path.parent, Path(tempfile.gettempdir())), target:
        executable = tvm.compile(module, target=target, relax_pipeline=passes, tir_pipeline=tir_pipeline)
        with replaced_atomically(out_path) as temporary:
            executable.export_library(str(temporary), fcompile=link)


@contextmanager
def _build_errors(*places: Path) -> Iterator[None]:
    """As a CompileError; as a StorageError where a disk that ``places`` lie on is full: no model is to blame."""
    import tvm

    try:
        yield
    except (tvm.error.InternalError, RuntimeError, ValueError, TypeError) as error:
        full = full_disk_error(str(error), *places)
        if full is not None:
            raise full from error
        raise CompileError(f"TVM could not build the model: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
