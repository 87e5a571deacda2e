"""Verb: any ONNX file compiled for a target, and checked against ONNX Runtime before it is kept."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hwautoml.compilers import load_backend
from hwautoml.compilers.base import CompiledModel
from hwautoml.core.artifact import sha256_file
from hwautoml.core.duration import require_duration
from hwautoml.core.progress import OnProgress, Progress, silent
from hwautoml.core.resources import target_folders
from hwautoml.core.target import Target, load_target
from hwautoml.errors import CompileError, InvalidValueError, ParityError
from hwautoml.pipeline.connecting import device_for, onnxruntime_outputs, require_reachable
from hwautoml.pipeline.tables import choose_runtime, records_path, unavailable_reason

TOLERANCE = 1e-4  # relative to the outputs' scale
#: Of quantised models, whose values may be rounded to the next step or the one after where sums differ in a last bit.
QUANTIZED_TOLERANCE = 0.05
NUM_RANDOM_INPUTS = 4


def compile(
    model: str | Path,
    *,
    target: str = "cpu",
    runtime: str = "tvm",
    out: str | Path | None = None,
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

    ``inputs`` is an .npz (or .npy) file with one array (n, ...), as the model takes it. Nothing is written where
    the check fails. A library for another machine is checked on the board that ``device``, or ``tracker`` and
    ``key``, name; without one ``parity`` in the result says why it was not checked.

    Raises:
        CompileError: the file cannot be read or compiled; the message names the operator or the file.
        InvalidValueError: ``inputs`` holds no array that fits the model.
        ParityError: the compiled model gives other results than ONNX Runtime.
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
    folder = Path(out) if out is not None else path.with_suffix("").with_name(f"{path.stem}-{found.name}-{chosen}")
    given = None if inputs is None else _given_inputs(path, Path(inputs))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        compiled = _compiled(path, Path(temporary), found, chosen, tune_sec, profiles_dir, seed, on_progress)
        parity: str | dict[str, Any]
        reason = unavailable_reason(found, device=device, tracker=tracker)
        if reason is None:
            on_progress(Progress("compile", 0.999, f"checking it on {device or tracker or 'this machine'}"))
            with device_for(found, chosen, **board) as place:
                parity = _parity(chosen, path, compiled.path, seed, given, place.run_model)
        else:
            parity = f"not checked: {reason}"
        folder.mkdir(exist_ok=True)
        kept = compiled.path.replace(folder / compiled.path.name)
    on_progress(Progress("compile", 1.0))
    return {
        "path": str(kept),
        "runtime": chosen,
        "target": found.name,
        **_facts(compiled),
        "sha256": sha256_file(kept),
        "parity": parity,
    }


def _compiled(
    path: Path, folder: Path, target: Target, runtime: str, tune_sec: float, profiles_dir: Path | None, seed: int,
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
        records_path=records_path(target, profiles_dir),
        on_progress=listen,
        seed=seed,
    )


def _facts(compiled: CompiledModel) -> dict[str, Any]:
    return {
        "functions": compiled.functions,
        "tuned": compiled.tuned,
        "untuned": list(compiled.untuned),
        "fallbacks": list(compiled.fallbacks),
        "slow": list(compiled.slow),
        "seconds": {"compile": compiled.compile_sec, "tune": compiled.tune_sec},
        "device_code": compiled.device_code,
    }


def _parity(
    runtime: str, onnx_path: Path, compiled: Path, seed: int, given: np.ndarray | None,
    run_model: Callable[[Path, np.ndarray], np.ndarray],
) -> dict[str, Any]:
    """Largest difference from ONNX Runtime relative to the outputs' scale, over random and given inputs."""
    if runtime == "onnxruntime":
        return {"max_relative": 0.0, "note": "the compiled model is the ONNX file itself"}
    found, is_quantized = {}, _is_quantized(onnx_path)
    tolerance = QUANTIZED_TOLERANCE if is_quantized else TOLERANCE
    for kind, inputs in {"random": _random_inputs(onnx_path, seed), "given": given}.items():
        if inputs is None:
            continue
        expected = _as_written(onnx_path, inputs) if is_quantized else onnxruntime_outputs(onnx_path, inputs)
        got = run_model(compiled, inputs)
        if not np.isfinite(expected).all():
            raise ParityError(
                f"{onnx_path} gives infinities or NaN on {kind} inputs, with ONNX Runtime itself: nothing to compare",
                fix="give inputs as the model expects them: --inputs samples.npz",
            )
        scale = float(np.abs(expected).max()) or 1.0
        found[kind] = float(np.abs(expected - got).max()) / scale
        if not found[kind] <= tolerance:
            raise ParityError(
                f"compiled for {runtime}, {onnx_path} differs from ONNX Runtime by {found[kind]:.3g} of the outputs' "
                f"scale on {kind} inputs (tolerance {tolerance:g}); nothing was written",
                fix="use --runtime onnxruntime for this model",
            )
    result: dict[str, Any] = {"max_relative": max(found.values()), "tolerance": tolerance}
    result["num_inputs"] = NUM_RANDOM_INPUTS + (0 if given is None else len(given))
    return result | {f"max_relative_{kind}": value for kind, value in found.items()}


def _is_quantized(onnx_path: Path) -> bool:
    import onnx

    graph = onnx.load(onnx_path, load_external_data=False).graph
    return any(node.op_type == "QuantizeLinear" for node in graph.node)


def _as_written(onnx_path: Path, inputs: np.ndarray) -> np.ndarray:
    """What ONNX Runtime computes with its optimisations off: its int8 kernels saturate on x86 without VNNI."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(onnx_path, options, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    size = source.shape[0] if isinstance(source.shape[0], int) else len(inputs)
    batches = (inputs[start : start + size] for start in range(0, len(inputs), size))
    return np.concatenate([session.run(None, {source.name: batch})[0] for batch in batches])


def _random_inputs(onnx_path: Path, seed: int) -> np.ndarray:
    """Images of noise, numbers around zero, or zeros and ones: whole numbers are mostly indices of something."""
    opened = load_backend("onnxruntime").open_model(onnx_path)
    batch, *rest = (extent if extent > 0 else 1 for extent in opened.input_shape)
    shape = (NUM_RANDOM_INPUTS * batch, *rest)
    generator = np.random.default_rng(seed)
    if opened.input_dtype == "uint8":
        return generator.integers(0, 256, shape, dtype=np.uint8)
    if opened.input_dtype.startswith(("int", "bool")):
        return generator.integers(0, 2, shape).astype(opened.input_dtype)
    return generator.standard_normal(shape).astype(opened.input_dtype)


def _given_inputs(onnx_path: Path, path: Path) -> np.ndarray:
    """The only array of the file, or the one named like the model's input, if it fits the model."""
    model = load_backend("onnxruntime").open_model(onnx_path)
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
    if array is None or not fits or not len(array) or any(
        want not in (-1, have) for want, have in zip(expected[1:], array.shape[1:], strict=True)
    ) or (expected[0] > 0 and len(array) % expected[0]):  # fmt: skip
        raise InvalidValueError(
            f"{path} holds {None if array is None else (str(array.dtype), array.shape)}, and the model takes "
            f"{model.input_dtype} {expected} (-1: any)",
            fix=fix,
        )
    return array
