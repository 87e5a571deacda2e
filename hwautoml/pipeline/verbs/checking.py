"""Is a compiled model what its source is? Both run on the same inputs, random and given ones."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hwautoml.compilers import load_backend, reference_runtime, traits_of
from hwautoml.devices.local import LocalDevice
from hwautoml.errors import InvalidValueError, ParityError

TOLERANCE = 1e-4  # relative to the outputs' scale
#: Of quantised models, whose values may be rounded to the next step or the one after where sums differ in a last bit.
QUANTIZED_TOLERANCE = 0.05
NUM_RANDOM_INPUTS = 4
PROGRAM_SUFFIX = ".pt2"


@dataclass(frozen=True)
class ModelParity:
    """Largest difference from the source relative to the outputs' scale, over all inputs and by their kind.

    Where nothing had to be run, ``note`` says why.
    """

    max_relative: float
    tolerance: float | None = None
    num_inputs: int | None = None
    by_kind: Mapping[str, float] = field(default_factory=dict)  # random, given
    note: str | None = None

    def to_json(self) -> dict[str, Any]:
        if self.note is not None:
            return {"max_relative": self.max_relative, "note": self.note}
        figures = {"max_relative": self.max_relative, "tolerance": self.tolerance, "num_inputs": self.num_inputs}
        return figures | {f"max_relative_{kind}": value for kind, value in self.by_kind.items()}


def check_parity(
    runtime: str,
    source: Path,
    compiled: Path,
    precision: str,
    seed: int,
    given: np.ndarray | None,
    run_model: Callable[[Path, np.ndarray], np.ndarray],
) -> ModelParity:
    """How far ``compiled`` is from ``source``, whose own runtime runs that one here; ``run_model`` runs the other.

    Raises:
        ParityError: further than the tolerance, or there is nothing to compare.
    """
    if runtime == reference_runtime(source.suffix) and traits_of(runtime).places == ("cpu",):
        return ModelParity(0.0, note="the compiled model is the ONNX file itself")
    found: dict[str, float] = {}
    tolerance, reference = _tolerance(source, precision), reference_runtime(source.suffix)
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
                fix="leave --precision out" if precision == "fp16" else f"use --runtime {reference} for this model",
            )
    num_inputs = NUM_RANDOM_INPUTS + (0 if given is None else len(given))
    return ModelParity(max(found.values()), tolerance, num_inputs, found)


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
        return as_written(source, inputs)
    with LocalDevice(reference_runtime(source.suffix)) as device:
        return device.run_model(source, inputs)


def _is_quantized(onnx_path: Path) -> bool:
    import onnx

    graph = onnx.load(onnx_path, load_external_data=False).graph
    return any(node.op_type == "QuantizeLinear" for node in graph.node)


def as_written(onnx_path: Path, inputs: np.ndarray) -> np.ndarray:
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
    opened = load_backend(reference_runtime(source.suffix)).open_model(source)
    batch, *rest = (extent if extent > 0 else 1 for extent in opened.input_shape)
    shape = (NUM_RANDOM_INPUTS * batch, *rest)
    generator = np.random.default_rng(seed)
    if opened.input_dtype == "uint8":
        return generator.integers(0, 256, shape, dtype=np.uint8)
    if opened.input_dtype.startswith(("int", "bool")):
        return generator.integers(0, 2, shape).astype(opened.input_dtype)
    return generator.standard_normal(shape).astype(opened.input_dtype)


def given_inputs(source: Path, path: Path) -> np.ndarray:
    """The only array of the file, or the one named like the model's input, if it fits the model."""
    model = load_backend(reference_runtime(source.suffix)).open_model(source)
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
