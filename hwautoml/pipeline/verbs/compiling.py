"""Verb: any ONNX file compiled for a target, and checked against ONNX Runtime before it is kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwautoml.compilers import load_backend, traits_of
from hwautoml.compilers.base import CompiledModel, Tuning, require_no_tuning
from hwautoml.core.artifact import sha256_file
from hwautoml.core.board import HERE, Board
from hwautoml.core.compiled_file import CompiledFile, add_compiled
from hwautoml.core.duration import require_duration
from hwautoml.core.json_result import JsonResult
from hwautoml.core.progress import OnProgress, Progress, silent
from hwautoml.core.resources import target_folders
from hwautoml.core.storage import folder_beside, named_storage_errors
from hwautoml.core.target import Target, load_target
from hwautoml.errors import CompileError, InvalidValueError
from hwautoml.pipeline.connecting import board_route, device_for, require_reachable, unavailable_reason
from hwautoml.pipeline.tables.finding import choose_runtime
from hwautoml.pipeline.tables.shipped_records import take_over_shipped_records
from hwautoml.pipeline.verbs.checking import PROGRAM_SUFFIX, ModelParity, as_written, check_parity, given_inputs
from hwautoml.store.table_library import TableLibrary


@dataclass(frozen=True)
class CompileResult(JsonResult):
    """A file that was compiled and kept. ``parity`` is how far it is from its source, or why it was not checked;
    ``half_parity`` how far the source's fp16 form is from it, where one was made. ``compiled`` has the compiler's facts
    (its ``path`` is where the file lay before it was kept)."""

    path: Path
    target: str
    precision: str
    compiled: CompiledModel
    sha256: str
    parity: ModelParity | str
    half_parity: ModelParity | None = None

    @property
    def runtime(self) -> str:
        return self.compiled.runtime

    def to_json(self) -> dict[str, Any]:
        compiled = self.compiled
        return {
            "path": str(self.path),
            "runtime": self.runtime,
            "target": self.target,
            "precision": self.precision,
            "half_parity": None if self.half_parity is None else self.half_parity.to_json(),
            "functions": compiled.functions,
            "tuned": compiled.tuned,
            "untuned": list(compiled.untuned),
            "fallbacks": list(compiled.fallbacks),
            "slow": None if compiled.slow is None else list(compiled.slow),
            "seconds": {"compile": compiled.compile_sec, "tune": compiled.tune_sec},
            "device_code": compiled.device_code,
            "sha256": self.sha256,
            "parity": self.parity if isinstance(self.parity, str) else self.parity.to_json(),
        }


def compile(
    model: str | Path,
    *,
    target: str = "cpu",
    runtime: str = "tvm",
    out: str | Path | None = None,
    precision: str = "fp32",
    tune_sec: float = 0.0,
    device: str | None = None,
    tracker: str | None = None,
    key: str | None = None,
    inputs: str | Path | None = None,
    seed: int = 0,
    targets_dir: Path | None = None,
    profiles_dir: Path | None = None,
    on_progress: OnProgress = silent,
) -> CompileResult:
    """Compile any ONNX file for a target, checked against ONNX Runtime on random inputs and those of ``inputs``.

    ``precision`` fp16 compiles its form in fp16, which takes and gives what the file does and is itself compared with
    the file first; fp32 leaves it as it is. Programs of torch (.pt2) are compiled by torch-inductor and torch, and
    compared with the program on this machine's processor.

    ``inputs`` is an .npz (or .npy) file with one array (n, ...), as the model takes it. Nothing is written where
    the check fails. A library for another machine is checked, and tuned, on the board that ``device``, or ``tracker``
    and ``key``, name; without one ``parity`` in the result says why it was not checked. ``compiled.json`` beside it
    keeps where it comes from and what runs it, so that ``bench`` takes the folder.

    Raises:
        CompileError: the file cannot be read or compiled; the message names the operator or the file.
        InvalidValueError: ``inputs`` holds no array that fits the model, the target or the file's kind does not
            have the precision, or ``tune_sec`` is given where there is nothing to tune.
        ParityError: the compiled model gives other results than ONNX Runtime.
        TargetUnavailableError: the board does not answer, or is busy.
        MeasurementError: the board to tune on is emulated.
    """
    path, board = Path(model), Board(device, tracker, key)
    if not path.is_file():
        raise CompileError(f"{path} does not exist", fix="name an .onnx file, e.g. runs/demo/bundle/model.onnx")
    require_duration(tune_sec, "tune_sec", may_be_zero=True)
    found = load_target(target, target_folders(targets_dir))
    if board != HERE:
        require_reachable(found, board)
    chosen = choose_runtime(found, runtime)
    traits = traits_of(chosen)
    if tune_sec > 0:
        require_no_tuning(traits, found, Tuning(budget_sec=tune_sec))
    _require_precision(found, path, precision)
    folder = Path(out) if out is not None else path.with_suffix("").with_name(f"{path.stem}-{found.name}-{chosen}")
    given = None if inputs is None else given_inputs(path, Path(inputs))
    tuning = None
    if traits.is_tunable(found):
        route = board_route(found, board, to_tune=tune_sec > 0)  # before minutes of work: the board may not answer
        records = take_over_shipped_records(found.name, TableLibrary(profiles_dir))
        tuning = Tuning(records, tune_sec, seed, route)
    with _made(folder), folder_beside(folder / path.name) as temporary:  # which may be a disk of its own
        source, half = path, None
        if precision == "fp16":
            source, half = _half(path, temporary / "half" / path.name, seed, given)
        compiled = _compiled(source, temporary, found, chosen, tuning, on_progress)
        parity = _checked(path, compiled, found, board, precision, seed, given, on_progress)
        kept = compiled.path.replace(folder / compiled.path.name)
        result = CompileResult(kept, found.name, precision, compiled, sha256_file(kept), parity, half)
        add_compiled(folder, _origin(path, result, found))
    on_progress(Progress("compile", 1.0))
    return result


def _checked(
    source: Path,
    compiled: CompiledModel,
    target: Target,
    board: Board,
    precision: str,
    seed: int,
    given: np.ndarray | None,
    on_progress: OnProgress,
) -> ModelParity | str:
    reason = unavailable_reason(target, board)
    if reason is not None:
        return f"not checked: {reason}"
    on_progress(Progress("compile", 0.999, f"checking it on {board.address or 'this machine'}"))
    with device_for(target, compiled.runtime, board) as place:
        return check_parity(compiled.runtime, source, compiled.path, precision, seed, given, place.run_model)


def _origin(source: Path, result: CompileResult, target: Target) -> CompiledFile:
    return CompiledFile(
        name=result.path.name,
        sha256=result.sha256,
        source=str(source),
        source_sha256=sha256_file(source),
        target=target.name,
        runtime=result.runtime,
        runtime_version=load_backend(result.runtime).version(),
        precision=result.precision,
        num_threads=target.num_threads,
    )


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """The folder, which is taken away again if it was not there and the block fails."""
    with named_storage_errors(folder):
        existed = folder.exists()
    try:
        yield
    except BaseException:
        if not existed and folder.is_dir():
            with suppress(OSError):  # somebody else put something there
                folder.rmdir()
        raise


def _compiled(
    path: Path, folder: Path, target: Target, runtime: str, tuning: Tuning | None, on_progress: OnProgress
) -> CompiledModel:
    def listen(done: int, total: int, text: str) -> None:
        on_progress(Progress("compile", min(done / max(total, 1), 0.999), text))

    return load_backend(runtime).compile(path, folder, target, tuning, on_progress=listen)


def _require_precision(target: Target, path: Path, precision: str) -> None:
    """Raises InvalidValueError where the target does not compute in it, or the file cannot be brought to it."""
    from hwautoml.exporters.half_precision import require_onnx_precision

    target.require_precision(precision)
    if precision == "int8":
        raise InvalidValueError(
            "an int8 model is made with images to calibrate it on; a quantised file is compiled as it is",
            fix="leave --precision out, or make one: hwautoml run --precision int8",
        )
    if precision != "fp32" and path.suffix == PROGRAM_SUFFIX:
        raise InvalidValueError(
            f"{path} has the precision it was exported in",
            fix=f"leave --precision out, and export a network in {precision} with hwautoml.exporters.half_deployable",
        )
    if precision != "fp32" and not target.is_cuda:
        raise InvalidValueError(f"{precision} is for GPUs, and {target.name} is none", fix="leave --precision out")
    require_onnx_precision(precision)


def _half(path: Path, out: Path, seed: int, given: np.ndarray | None) -> tuple[Path, ModelParity]:
    """The file's fp16 form, and how far it is from the file in ONNX Runtime on this machine's processor."""
    from hwautoml.exporters.half_precision import half_onnx

    half_onnx(path, out)
    return out, check_parity("fp16", path, out, "fp16", seed, given, as_written)
