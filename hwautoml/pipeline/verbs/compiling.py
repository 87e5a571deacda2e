"""Verb: any ONNX file compiled for a target, and checked against ONNX Runtime before it is kept."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwautoml.compilers import load_backend
from hwautoml.compilers.base import CompiledModel
from hwautoml.core.artifact import sha256_file
from hwautoml.core.duration import require_duration
from hwautoml.core.progress import OnProgress, Progress, silent
from hwautoml.core.resources import target_folders
from hwautoml.core.storage import folder_beside, named_storage_errors
from hwautoml.core.target import Target, load_target
from hwautoml.devices.local import LocalDevice
from hwautoml.errors import CompileError, InvalidValueError, ParityError
from hwautoml.pipeline.connecting import board_route, device_for, require_reachable, unavailable_reason
from hwautoml.pipeline.tables.finding import choose_runtime
from hwautoml.pipeline.tables.shipped_records import take_over_shipped_records
from hwautoml.store.table_library import TableLibrary

if TYPE_CHECKING:
    from hwautoml.compilers._tvm_request import BoardRoute

TOLERANCE = 1e-4  # relative to the outputs' scale
#: Of quantised models, whose values may be rounded to the next step or the one after where sums differ in a last bit.
QUANTIZED_TOLERANCE = 0.05
NUM_RANDOM_INPUTS = 4
PROGRAM_SUFFIX = ".pt2"


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
) -> dict[str, Any]:
    """Compile any ONNX file for a target, checked against ONNX Runtime on random inputs and those of ``inputs``.

    ``precision`` fp16 compiles its form in fp16, which takes and gives what the file does and is itself compared with
    the file first; fp32 leaves it as it is. Programs of torch (.pt2) are compiled by torch-inductor and torch, and
    compared with the program on this machine's processor.

    ``inputs`` is an .npz (or .npy) file with one array (n, ...), as the model takes it. Nothing is written where
    the check fails. A library for another machine is checked, and tuned, on the board that ``device``, or ``tracker``
    and ``key``, name; without one ``parity`` in the result says why it was not checked.

    Raises:
        CompileError: the file cannot be read or compiled; the message names the operator or the file.
        InvalidValueError: ``inputs`` holds no array that fits the model, or the target or the file's kind does not
            have the precision.
        ParityError: the compiled model gives other results than ONNX Runtime.
        TargetUnavailableError: the board does not answer, or is busy.
        MeasurementError: the board to tune on is emulated.
    """
    path = Path(model)
    if not path.is_file():
        raise CompileError(f"{path} does not exist", fix="name an .onnx file, e.g. runs/demo/bundle/model.onnx")
    require_duration(tune_sec, "tune_sec", may_be_zero=True)
    found = load_target(target, target_folders(targets_dir))
    board = {"device": device, "tracker": tracker, "key": key}
    if any(board.values()):
        require_reachable(found, **board)
    chosen = choose_runtime(found, runtime)
    _require_precision(found, path, precision)
    folder = Path(out) if out is not None else path.with_suffix("").with_name(f"{path.stem}-{found.name}-{chosen}")
    given = None if inputs is None else _given_inputs(path, Path(inputs))
    is_tunable = chosen == "tvm" and not found.is_cuda  # before minutes of work: the board may not answer
    route = board_route(found, **board, to_tune=tune_sec > 0) if is_tunable else None
    with _made(folder), folder_beside(folder / path.name) as temporary:  # which may be a disk of its own
        source, half = path, None
        if precision == "fp16":
            source, half = _half(path, temporary / "half" / path.name, seed, given)
        compiled = _compiled(source, temporary, found, chosen, tune_sec, profiles_dir, seed, route, on_progress)
        parity: str | dict[str, Any]
        reason = unavailable_reason(found, device=device, tracker=tracker)
        if reason is None:
            on_progress(Progress("compile", 0.999, f"checking it on {device or tracker or 'this machine'}"))
            with device_for(found, chosen, **board) as place:
                parity = _parity(chosen, path, compiled.path, precision, seed, given, place.run_model)
        else:
            parity = f"not checked: {reason}"
        kept = compiled.path.replace(folder / compiled.path.name)
    on_progress(Progress("compile", 1.0))
    return {
        "path": str(kept),
        "runtime": chosen,
        "target": found.name,
        "precision": precision,
        "half_parity": half,
        **_facts(compiled),
        "sha256": sha256_file(kept),
        "parity": parity,
    }


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
    path: Path,
    folder: Path,
    target: Target,
    runtime: str,
    tune_sec: float,
    profiles_dir: Path | None,
    seed: int,
    route: BoardRoute | None,
    on_progress: OnProgress,
) -> CompiledModel:
    def listen(done: int, total: int, text: str) -> None:
        on_progress(Progress("compile", min(done / max(total, 1), 0.999), text))

    return load_backend(runtime).compile_model(
        path,
        folder,
        tvm_target=target.tvm,
        num_threads=target.num_threads,
        tune_budget_sec=tune_sec,
        records_path=take_over_shipped_records(target.name, TableLibrary(profiles_dir)),
        on_progress=listen,
        seed=seed,
        **({} if route is None else {"board": route}),  # TVM's alone
    )


def _facts(compiled: CompiledModel) -> dict[str, Any]:
    return {
        "functions": compiled.functions,
        "tuned": compiled.tuned,
        "untuned": list(compiled.untuned),
        "fallbacks": list(compiled.fallbacks),
        "slow": None if compiled.slow is None else list(compiled.slow),
        "seconds": {"compile": compiled.compile_sec, "tune": compiled.tune_sec},
        "device_code": compiled.device_code,
    }


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


def _half(path: Path, out: Path, seed: int, given: np.ndarray | None) -> tuple[Path, dict[str, Any]]:
    """The file's fp16 form, and how far it is from the file in ONNX Runtime on this machine's processor."""
    from hwautoml.exporters.half_precision import half_onnx

    half_onnx(path, out)
    return out, _parity("fp16", path, out, "fp16", seed, given, _as_written)


def _parity(
    runtime: str,
    source: Path,
    compiled: Path,
    precision: str,
    seed: int,
    given: np.ndarray | None,
    run_model: Callable[[Path, np.ndarray], np.ndarray],
) -> dict[str, Any]:
    """Largest difference from the source relative to the outputs' scale, over random and given inputs."""
    if runtime == "onnxruntime":
        return {"max_relative": 0.0, "note": "the compiled model is the ONNX file itself"}
    found, tolerance, reference = {}, _tolerance(source, precision), _reference(source)
    for kind, inputs in {"random": _random_inputs(source, seed), "given": given}.items():
        if inputs is None:
            continue
        expected = _expected(source, inputs)
        got = run_model(compiled, inputs)
        if not np.isfinite(expected).all():
            raise ParityError(
                f"{source} gives infinities or NaN on {kind} inputs, with {reference} itself: nothing to compare",
                fix="give inputs as the model expects them: --inputs samples.npz",
            )
        scale = float(np.abs(expected).max()) or 1.0
        found[kind] = float(np.abs(expected - got).max()) / scale
        if not found[kind] <= tolerance:
            raise ParityError(
                f"compiled for {runtime}, {source} differs from {reference} by {found[kind]:.3g} of "
                f"the outputs' scale on {kind} inputs (tolerance {tolerance:g}); nothing was written",
                fix="leave --precision out" if precision == "fp16" else "use --runtime onnxruntime for this model",
            )
    result: dict[str, Any] = {"max_relative": max(found.values()), "tolerance": tolerance}
    result["num_inputs"] = NUM_RANDOM_INPUTS + (0 if given is None else len(given))
    return result | {f"max_relative_{kind}": value for kind, value in found.items()}


def _tolerance(source: Path, precision: str) -> float:
    from hwautoml.compilers._torch_program import read_program
    from hwautoml.exporters.half_precision import DTYPES, is_half_onnx
    from hwautoml.exporters.half_precision import TOLERANCE as HALF_TOLERANCE

    if source.suffix == PROGRAM_SUFFIX:
        weights = read_program(source)[0].state_dict.values()
        own = [name for name, dtype in DTYPES.items() if any(str(w.dtype) == f"torch.{dtype}" for w in weights)]
        return max((HALF_TOLERANCE[name] for name in own), default=TOLERANCE)
    if _is_quantized(source):
        return QUANTIZED_TOLERANCE
    return HALF_TOLERANCE["fp16"] if precision == "fp16" or is_half_onnx(source) else TOLERANCE


def _expected(source: Path, inputs: np.ndarray) -> np.ndarray:
    """What the file itself computes, on this machine's processor."""
    from hwautoml.exporters.half_precision import is_half_onnx

    if source.suffix != PROGRAM_SUFFIX and (_is_quantized(source) or is_half_onnx(source)):
        return _as_written(source, inputs)
    with LocalDevice(_reference(source)) as device:
        return device.run_model(source, inputs)


def _reference(source: Path) -> str:
    """The runtime whose results count, and whose processor's they are."""
    return "torch" if source.suffix == PROGRAM_SUFFIX else "onnxruntime"


def _is_quantized(onnx_path: Path) -> bool:
    import onnx

    graph = onnx.load(onnx_path, load_external_data=False).graph
    return any(node.op_type == "QuantizeLinear" for node in graph.node)


def _as_written(onnx_path: Path, inputs: np.ndarray) -> np.ndarray:
    """What ONNX Runtime computes with its optimisations off.

    Its int8 kernels saturate on x86 without VNNI, and what makes convolutions faster there crashes on some fp16 files
    with open shapes (microsoft/onnxruntime#28392).
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(onnx_path, options, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    size = source.shape[0] if isinstance(source.shape[0], int) else len(inputs)
    batches = (inputs[start : start + size] for start in range(0, len(inputs), size))
    return np.concatenate([session.run(None, {source.name: batch})[0] for batch in batches])


def _random_inputs(source: Path, seed: int) -> np.ndarray:
    """Images of noise, numbers around zero, or zeros and ones: whole numbers are mostly indices of something."""
    opened = load_backend(_reference(source)).open_model(source)
    batch, *rest = (extent if extent > 0 else 1 for extent in opened.input_shape)
    shape = (NUM_RANDOM_INPUTS * batch, *rest)
    generator = np.random.default_rng(seed)
    if opened.input_dtype == "uint8":
        return generator.integers(0, 256, shape, dtype=np.uint8)
    if opened.input_dtype.startswith(("int", "bool")):
        return generator.integers(0, 2, shape).astype(opened.input_dtype)
    return generator.standard_normal(shape).astype(opened.input_dtype)


def _given_inputs(source: Path, path: Path) -> np.ndarray:
    """The only array of the file, or the one named like the model's input, if it fits the model."""
    model = load_backend(_reference(source)).open_model(source)
    fix = f"numpy.savez({path.with_suffix('.npz').name!r}, {model.input_name}=array)"
    if not path.is_file():
        raise InvalidValueError(f"{path} does not exist", fix=fix)
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = {model.input_name: loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidValueError(f"{path} holds no arrays that numpy reads: {error}", fix=fix) from error
    if model.input_name not in arrays and len(arrays) != 1:
        raise InvalidValueError(f"{path} has no array {model.input_name!r}, but {sorted(arrays)}", fix=fix)
    array = arrays.get(model.input_name, next(iter(arrays.values()), None))
    expected = model.input_shape
    fits = array is not None and array.ndim == len(expected) and str(array.dtype) == model.input_dtype
    if (
        array is None
        or not fits
        or not len(array)
        or any(want not in (-1, have) for want, have in zip(expected[1:], array.shape[1:], strict=True))
        or (expected[0] > 0 and len(array) % expected[0])
    ):
        raise InvalidValueError(
            f"{path} holds {None if array is None else (str(array.dtype), array.shape)}, and the model takes "
            f"{model.input_dtype} {expected} (-1: any)",
            fix=fix,
        )
    return array
