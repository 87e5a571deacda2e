"""Post-training quantisation of ONNX models to int8, calibrated on images, through ONNX Runtime's tools.

QDQ form, weights int8 per output channel, activations uint8 (on x86 with VNNI, int8 activations were
measured to be three times slower). Method: Krishnamoorthi 2018, "Quantizing deep convolutional
networks for efficient inference", sections 2.1 and 3.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwautoml.core.artifact import Artifact
from hwautoml.core.storage import write_atomically
from hwautoml.core.temporary import temporary_folder
from hwautoml.errors import CompileError, InvalidValueError

if TYPE_CHECKING:
    import onnx

#: What ONNX Runtime has int8 kernels for, and our blocks use; all else is computed in float32 in between.
OPERATORS = (
    "Add",
    "AveragePool",
    "Clip",
    "Concat",
    "Conv",
    "Flatten",
    "Gemm",
    "GlobalAveragePool",
    "MatMul",
    "MaxPool",
    "Mul",
    "Relu",
)
WEIGHTED = ("Conv", "Gemm", "MatMul")
_NUM_PROBE_BATCHES = 2
# A probe's input where no quantised operator reads it: standard normal numbers lie within 4 of zero.
_NORMAL_SCALE, _NORMAL_ZERO = np.array(8 / 255, np.float32), np.array(128, np.uint8)


def quantize_onnx(
    path: Path, out: Path, images: np.ndarray, *, reduce_range: bool = False, keep_fp32: Collection[str] = ()
) -> Artifact:
    """Write the int8 form of the model in ``path`` to ``out``, atomically; input and output stay what they are.

    ``images`` (n, ...) are fed as they are, in the model's own batches, and decide the range of every
    activation (smallest to largest value seen); a few hundred from the training split are usual. All from the
    first to the last layer with weights is quantised: normalisation and softmax stay in float32.
    ``reduce_range`` keeps weights in 7 bits, for x86 CPUs without VNNI, whose sums saturate otherwise.
    ``keep_fp32`` names layers (of `weighted_layers`) that stay in float32: mixed precision.

    Raises:
        CompileError: the model cannot be read, or not be quantised.
        InvalidValueError: the images do not fit its input.
    """
    model = _read(path)
    _prepare(model)
    nodes = [node for node in model.graph.node if node.op_type in OPERATORS]
    weighted = [index for index, node in enumerate(nodes) if node.op_type in WEIGHTED]
    if not weighted:
        raise CompileError(f"{path} has no layer with weights ({', '.join(WEIGHTED)}) that could be quantised")
    chosen = [node.name for node in nodes[weighted[0] : weighted[-1] + 1] if node.name not in keep_fp32]
    facts = {"precision": "int8", "calibration_images": str(len(images))}
    if keep_fp32:
        facts |= {"precision": "int8 and fp32", "fp32_layers": " ".join(sorted(keep_fp32))}
    return _write_quantised(model, path, out, images, chosen, reduce_range, facts, keep_fp32)


def _write_quantised(
    model: onnx.ModelProto,
    path: Path,
    out: Path,
    images: np.ndarray,
    nodes: list[str],
    reduce_range: bool,
    facts: dict[str, str],
    keep_fp32: Collection[str] = (),
) -> Artifact:
    wanted = _input_shape(model)
    if not len(images) or images.shape[1:] != wanted[1:]:
        raise InvalidValueError(f"calibration images must have shape (n, {_text(wanted[1:])}), got {images.shape}")
    batches = [images.take(range(i, i + wanted[0]), axis=0, mode="wrap") for i in range(0, len(images), wanted[0])]
    quantised = _quantize(model, batches, nodes, reduce_range, path)
    _shield(quantised, keep_fp32)
    _describe(quantised, facts)
    write_atomically(out, quantised.SerializeToString(deterministic=True))
    return Artifact.of_file(out, "onnx", "")


def weighted_layers(path: Path) -> list[str]:
    """Names of the layers with weights, in the order they run; `quantize_onnx` and `layer_sensitivity` use them."""
    model = _read(path)
    _prepare(model)
    return [node.name for node in model.graph.node if node.op_type in WEIGHTED]


def layer_sensitivity(
    path: Path,
    images: np.ndarray,
    *,
    divergence: Callable[[np.ndarray, np.ndarray], float],
    reduce_range: bool = False,
    on_layer: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """How much the output changes when one layer alone is quantised, most sensitive first.

    By the task's ``divergence`` of the changed model's outputs from the float32 model's on ``images`` (n, ...), which
    calibrate too. ``on_layer`` hears (done, of how many).

    Raises:
        CompileError: the model cannot be read, or not be quantised.
    """

    layers, found = weighted_layers(path), {}
    expected = _outputs(path, images)
    with temporary_folder() as folder:
        for index, name in enumerate(layers):
            model = _read(path)
            _prepare(model)
            changed = _write_quantised(model, path, folder / "one.onnx", images, [name], reduce_range, {})
            found[name] = divergence(expected, _outputs(changed.path, images))
            if on_layer is not None:
                on_layer(index + 1, len(layers))
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _outputs(path: Path, images: np.ndarray) -> np.ndarray:
    """(n, ...) of a model in this process, in its own batches."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0]
    batch = source.shape[0] if isinstance(source.shape[0], int) else len(images)
    parts = [images.take(range(i, i + batch), axis=0, mode="wrap") for i in range(0, len(images), batch)]
    return np.concatenate([session.run(None, {source.name: part})[0] for part in parts])[: len(images)]


def quantize_network_probe(path: Path, *, seed: int = 0) -> Artifact:
    """A network's probe in place, calibrated on random images: for its latency, which values do not change."""
    import onnx

    model, generator = _read(path), np.random.default_rng(seed)
    batch, *rest = _input_shape(model)
    shape = (_NUM_PROBE_BATCHES * batch, *rest)
    if model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8:
        return quantize_onnx(path, path, generator.integers(0, 256, shape, np.uint8))
    return quantize_onnx(path, path, generator.standard_normal(shape).astype("float32"))


def quantize_layer_probe(path: Path, *, seed: int = 0) -> Artifact:
    """One layer's probe in place: uint8 NHWC in and out, as between two layers of a quantised network.

    With the float32 NCHW input and output that a quantised model has by itself, a layer alone would mainly
    measure converting its ends, which inside a network happens nowhere. What a layer converts inside, around an
    operator without an int8 kernel, is its own and stays. Left out are the conversions at the two ends of
    the network; whole networks, measured as they ship, correct the level.

    Raises:
        CompileError: the model cannot be read, or not be quantised.
    """
    model = _read(path)
    _prepare(model)
    chosen = [node.name for node in model.graph.node if node.op_type in OPERATORS]
    if any(node.op_type in WEIGHTED for node in model.graph.node):
        rng = np.random.default_rng(seed)
        batches = [rng.standard_normal(_input_shape(model), np.float32) for _ in range(_NUM_PROBE_BATCHES)]
        model = _quantize(model, batches, chosen, False, path)
        _take_uint8(model)
        _give_uint8(model)
    write_atomically(path, model.SerializeToString(deterministic=True))
    return Artifact.of_file(path, "onnx", "")


class _Batches:
    """What ONNX Runtime's calibrator reads from: one batch per call, then None."""

    def __init__(self, name: str, batches: list[np.ndarray]) -> None:
        self._feeds: Iterator[dict[str, np.ndarray]] = iter([{name: batch} for batch in batches])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def _quantize(
    model: onnx.ModelProto, batches: list[np.ndarray], nodes: list[str], reduce_range: bool, path: Path
) -> onnx.ModelProto:

    import onnx
    from onnxruntime.capi import onnxruntime_pybind11_state as state
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with temporary_folder() as folder, _quiet():
        result = folder / "int8.onnx"
        try:
            quantize_static(
                model,
                result,
                _Batches(model.graph.input[0].name, batches),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=reduce_range,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=list(OPERATORS),
                nodes_to_quantize=nodes,
            )
        except state.InvalidArgument as error:
            raise InvalidValueError(f"calibrating {path}: {error}") from error
        except (ValueError, RuntimeError, AttributeError) as error:
            raise CompileError(f"ONNX Runtime cannot quantise {path}: {error}", fix="ship it in fp32") from error
        return onnx.load(result)


def _prepare(model: onnx.ModelProto) -> None:
    """Names for nodes, constants as initialisers and pooling as such: what the quantiser looks for."""
    from onnx import helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in list(graph.node):
        value = None
        if node.op_type == "Identity":  # exporters write equal weights once
            value = constants.get(node.input[0])
        elif node.op_type == "Constant" and node.attribute[0].name == "value":
            value = helper.get_attribute_value(node.attribute[0])
        if value is not None:
            graph.node.remove(node)
            constant = graph.initializer.add()
            constant.CopyFrom(value)
            constant.name = node.output[0]
            constants[constant.name] = constant
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in (*graph.value_info, *graph.input)}
    for node in list(graph.node):
        if node.op_type == "ReduceMean" and ranks.get(node.input[0]) == 4:
            _use_pooling(model, node, constants)
    for index, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{index}"
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def _shield(model: onnx.ModelProto, names: Collection[str]) -> None:
    """Keeps ONNX Runtime from quantising these layers after all.

    When it opens a model it quantises the float weights, per tensor, of any layer that it finds between a
    DequantizeLinear and a QuantizeLinear. An operator in between that changes nothing, and that it does not
    know to remove, prevents that: the maximum with the smallest number.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    integers = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    layers = [node for node in graph.node if node.name in names and node.input[0] in integers]
    if layers:
        graph.initializer.append(numpy_helper.from_array(np.array(np.finfo(np.float32).min), "smallest"))
    for layer in layers:
        shielded = f"{layer.name}_input"
        index = list(graph.node).index(layer)
        graph.node.insert(index, helper.make_node("Max", [layer.input[0], "smallest"], [shielded]))
        layer.input[0] = shielded


def _use_pooling(model: onnx.ModelProto, mean: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> None:
    """A mean over height and width becomes GlobalAveragePool, which has an int8 kernel."""
    from onnx import helper, numpy_helper

    attributes = {a.name: helper.get_attribute_value(a) for a in mean.attribute}
    axes = attributes.get("axes", ())
    if len(mean.input) > 1 and mean.input[1] in constants:
        axes = numpy_helper.to_array(constants[mean.input[1]]).tolist()
    if sorted(axis % 4 for axis in axes) != [2, 3]:
        return
    (result,) = mean.output
    if attributes.get("keepdims", 1):
        mean.CopyFrom(helper.make_node("GlobalAveragePool", mean.input[:1], [result]))
        return
    pooled = f"{result}_pooled"
    index = list(model.graph.node).index(mean)
    model.graph.node.insert(index + 1, helper.make_node("Flatten", [pooled], [result], axis=1))
    mean.CopyFrom(helper.make_node("GlobalAveragePool", mean.input[:1], [pooled]))


def _take_uint8(model: onnx.ModelProto) -> None:
    """The graph's input becomes uint8 NHWC; what is not quantised reads it through a DequantizeLinear."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    name, kind = graph.input[0].name, graph.input[0].type.tensor_type
    kind.elem_type = TensorProto.UINT8
    quantizer = next((n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] == name), None)
    if quantizer is None:
        graph.initializer.append(numpy_helper.from_array(_NORMAL_SCALE, "input_scale"))
        graph.initializer.append(numpy_helper.from_array(_NORMAL_ZERO, "input_zero"))
        parameters, integers = ["input_scale", "input_zero"], f"{name}_nchw"
    else:
        parameters, integers = list(quantizer.input[1:]), quantizer.output[0]
        graph.node.remove(quantizer)
    as_float = f"{name}_as_float"
    for node in graph.node:
        for index, source in enumerate(node.input):
            if source == name:
                node.input[index] = as_float
    if any(as_float in node.input for node in graph.node):
        graph.node.insert(0, helper.make_node("DequantizeLinear", [integers, *parameters], [as_float]))
    graph.node.insert(0, helper.make_node("Transpose", [name], [integers], perm=[0, 3, 1, 2]))
    _reorder(kind, (0, 2, 3, 1))


def _give_uint8(model: onnx.ModelProto) -> None:
    """The graph's output becomes uint8, and NHWC where it is a map, if a quantised operator makes it."""
    from onnx import TensorProto, helper

    graph = model.graph
    output, kind = graph.output[0], graph.output[0].type.tensor_type
    last = next(node for node in graph.node if output.name in node.output)
    if last.op_type != "DequantizeLinear":
        return
    kind.elem_type = TensorProto.UINT8
    integers = last.input[0]
    graph.node.remove(last)
    if len(kind.shape.dim) == 4:
        graph.node.append(helper.make_node("Transpose", [integers], [output.name], perm=[0, 2, 3, 1]))
        _reorder(kind, (0, 2, 3, 1))
    else:
        output.name = integers


def _reorder(kind: onnx.TypeProto.Tensor, order: tuple[int, ...]) -> None:
    extents = [kind.shape.dim[axis].dim_value for axis in order]
    for dimension, extent in zip(kind.shape.dim, extents, strict=True):
        dimension.dim_value = extent


def _describe(model: onnx.ModelProto, facts: dict[str, str]) -> None:
    """Keeps what the model says of itself, without the quantiser's own notes."""
    import onnx

    known = {p.key: p.value for p in model.metadata_props if not p.key.startswith(("onnx.infer", "onnx.quant"))}
    onnx.helper.set_model_props(model, dict(sorted((known | facts).items())))


def _read(path: Path) -> onnx.ModelProto:
    """With the shape of every value; CompileError, naming the file, when it is no valid model."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
        return onnx.shape_inference.infer_shapes(model)
    except (OSError, DecodeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CompileError(f"{path} is not a readable ONNX model: {error}", fix="export the model again") from error


def _input_shape(model: onnx.ModelProto) -> tuple[int, ...]:
    return tuple(dimension.dim_value or 1 for dimension in model.graph.input[0].type.tensor_type.shape.dim)


def _text(shape: tuple[Any, ...]) -> str:
    return ", ".join(map(str, shape))


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser asks, on the root logger, for a preparation that our exports have had."""
    logger = logging.getLogger()
    refuse = _refuse_advice
    logger.addFilter(refuse)
    try:
        yield
    finally:
        logger.removeFilter(refuse)


def _refuse_advice(record: logging.LogRecord) -> bool:
    return "pre-processing before quantization" not in record.getMessage()
