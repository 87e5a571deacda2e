"""A network that is the same everywhere and always: what other measurements are related to."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hwautoml.core.storage import write_atomically

#: Changes with the network: figures related to another one cannot be compared.
REFERENCE_NAME = "reference/v1"
_WIDTHS = (32, 64, 64, 96)
_SIDE = 32


def export_reference(path: Path) -> Path:
    """Dense 3x3, depthwise 3x3 and 1x1 convolutions on a 32x32 image, fixed weights: 23 million multiplications."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(1)
    nodes, tensors, source, channels = [], [], "images", 3

    def convolution(name: str, source: str, out_channels: int, kernel_size: int, groups: int, stride: int) -> str:
        shape = (out_channels, channels // groups, kernel_size, kernel_size)
        scale = 1 / np.sqrt(np.prod(shape[1:]))
        tensors.append(numpy_helper.from_array((scale * generator.standard_normal(shape)).astype(np.float32), name))
        pads, strides = [kernel_size // 2] * 4, [stride] * 2
        nodes.append(helper.make_node("Conv", [source, name], [f"{name}.c"], group=groups, pads=pads, strides=strides))
        nodes.append(helper.make_node("Relu", [f"{name}.c"], [f"{name}.y"]))
        return f"{name}.y"

    for index, width in enumerate(_WIDTHS):
        source = convolution(f"dense{index}", source, width, 3, 1, 1 + (index % 2))
        channels = width
        source = convolution(f"depthwise{index}", source, width, 3, width, 1)
        source = convolution(f"pointwise{index}", source, width, 1, 1, 1)
    nodes.append(helper.make_node("GlobalAveragePool", [source], ["result"]))
    graph = helper.make_graph(
        nodes,
        "reference",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, _SIDE, _SIDE])],
        [helper.make_tensor_value_info("result", TensorProto.FLOAT, [1, channels, 1, 1])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    write_atomically(path, model.SerializeToString(deterministic=True))
    return path
