"""Small ONNX graphs built by hand, for the tests of backends and schedules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class GraphBuilder:
    """Adds nodes one after another; every method returns the name of its result."""

    def __init__(self, shape: tuple[int | str, ...], dtype: int = TensorProto.FLOAT, seed: int = 0) -> None:
        self.generator = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.input = helper.make_tensor_value_info("images", dtype, shape)

    def node(self, operator: str, *inputs: str, **attributes: object) -> str:
        """One node with one output."""
        output = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def constant(self, values: np.ndarray) -> str:
        """A constant with these values."""
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def random(self, *shape: int) -> str:
        """A constant of standard normal numbers, scaled to keep activations small."""
        scale = 1.0 / np.sqrt(max(1, int(np.prod(shape[1:]))))
        return self.constant((self.generator.standard_normal(shape) * scale).astype("float32"))

    def conv(
        self,
        data: str,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        padding: int | None = None,
    ) -> str:
        """A convolution with bias; padded so that stride 1 keeps the size, unless given."""
        pad = kernel // 2 if padding is None else padding
        return self.node(
            "Conv",
            data,
            self.random(outputs, inputs // groups, kernel, kernel),
            self.random(outputs),
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[pad] * 4,
            group=groups,
        )

    def activation(self, data: str, kind: str) -> str:
        """One of relu, relu6, hardswish, silu, sigmoid, hardsigmoid, tanh."""
        if kind == "relu6":
            low, high = np.float32(0.0), np.float32(6.0)
            return self.node("Clip", data, self.constant(low), self.constant(high))
        if kind == "silu":
            return self.node("Mul", data, self.node("Sigmoid", data))
        if kind == "hardsigmoid":
            return self.node("HardSigmoid", data, alpha=1.0 / 6.0, beta=0.5)
        return self.node({"relu": "Relu", "hardswish": "HardSwish"}.get(kind, kind.title()), data)

    def squeeze_excite(self, data: str, channels: int, gate: str) -> str:
        """``data`` times a gate computed from its mean over all pixels."""
        squeezed = self.node("GlobalAveragePool", data)
        middle = max(4, channels // 4)
        hidden = self.activation(self.conv(squeezed, channels, middle, 1), "relu")
        gated = self.activation(self.conv(hidden, middle, channels, 1), gate)
        return self.node("Mul", data, gated)

    def head(self, data: str, channels: int, classes: int) -> str:
        """Global average pool, linear layer, softmax."""
        flat = self.node("Flatten", self.node("GlobalAveragePool", data))
        weights, bias = self.random(classes, channels), self.random(classes)
        return self.node("Softmax", self.node("Gemm", flat, weights, bias, transB=1), axis=1)

    def normalised(self, channels: int, *, before_transpose: bool = True) -> str:
        """uint8 NHWC ``images`` to normalised float32 NCHW."""
        mean = self.generator.uniform(100, 150, channels).astype("float32")
        scale = self.generator.uniform(0.01, 0.02, channels).astype("float32")
        data = self.node("Cast", "images", to=TensorProto.FLOAT)
        if not before_transpose:
            data = self.node("Transpose", data, perm=[0, 3, 1, 2])
            mean, scale = mean[:, None, None], scale[:, None, None]
        data = self.node("Mul", self.node("Sub", data, self.constant(mean)), self.constant(scale))
        if before_transpose:
            data = self.node("Transpose", data, perm=[0, 3, 1, 2])
        return data

    def save(self, path: Path, output: str, rank: int = 2) -> Path:
        """Writes the model; ``output`` becomes ``probabilities``."""
        self.nodes.append(helper.make_node("Identity", [output], ["probabilities"]))
        result = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None] * rank)
        graph = helper.make_graph(self.nodes, "graph", [self.input], [result], initializer=self.initializers)
        opset = [helper.make_opsetid("", 18)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=9)
        onnx.checker.check_model(model)
        onnx.save(onnx.shape_inference.infer_shapes(model), path)
        return path
