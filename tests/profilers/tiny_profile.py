"""A tiny space whose networks are written with onnx.helper, and a program that profiles it.

``python tiny_profile.py TABLE`` is started, killed and started again by the tests.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.layer import Layer, LayerCost
from hwautoml.core.space import Architecture, Choice, SearchSpace
from hwautoml.core.table_identity import TableIdentity
from hwautoml.devices.local import LocalDevice
from hwautoml.devices.protocol import MeasureProtocol
from hwautoml.profilers.assembly import ProfileSetting
from hwautoml.profilers.layer_profiler import Builders, profile_layers
from hwautoml.profilers.profile_options import ProfileOptions

WIDTHS, KERNELS, SIZES = (4, 8), (1, 3), (8, 12)
PROTOCOL = MeasureProtocol(warmup_ms=1, min_rounds=6, max_rounds=10, min_sample_ms=0.2, target_relative_interval=0.05)
# A shared machine must not fail tests of logic: whatever was measured is written into the table.
OPTIONS = ProfileOptions(
    num_networks=6, num_holdout=2, max_relative_deviation=5.0, max_disturbance=1e9, max_scatter=1e9
)


class TinySpace(SearchSpace):
    """Three convolutions, each with its own width and kernel: 24 distinct layers, two calls."""

    name = "tiny/v1/12x12x3/classes10"
    choices = (
        Choice("size", SIZES),
        *(choice for i in range(3) for choice in (Choice(f"width{i}", WIDTHS), Choice(f"kernel{i}", KERNELS))),
    )

    def layers(self, architecture: Architecture) -> tuple[Layer, ...]:
        size, width = int(architecture["size"]), 3
        layers = []
        for i in range(3):
            out = int(architecture[f"width{i}"])
            layers.append(Layer("conv", width, size, size, out, int(architecture[f"kernel{i}"])))
            width = out
        return tuple(layers)

    def cost(self, layer: Layer) -> LayerCost:
        weights = layer.in_channels * layer.out_channels * layer.kernel_size**2
        area = layer.height * layer.width
        moved = 4 * (area * (layer.in_channels + layer.out_channels) + weights)
        return LayerCost(weights * area, weights, moved, moved, 1)

    def module(self, architecture: Architecture):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def layer_module(self, layer: Layer):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def resolution(self, architecture: Architecture) -> int:
        return int(architecture["size"])

    def all_layers(self) -> tuple[Layer, ...]:
        inputs = (3, *WIDTHS)
        return tuple(
            Layer("conv", i, size, size, out, k) for size in SIZES for i in inputs for out in WIDTHS for k in KERNELS
        )


def write_chain(layers: tuple[Layer, ...], path: Path) -> Path:
    """Convolutions in a row, random weights; no layer makes an empty network with one Relu."""
    path = path.with_suffix(".onnx")
    rng, nodes, weights, last = np.random.default_rng(0), [], [], "x"
    for i, layer in enumerate(layers):
        shape = (layer.out_channels, layer.in_channels, layer.kernel_size, layer.kernel_size)
        weights.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), f"w{i}"))
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], pads=[layer.kernel_size // 2] * 4))
        last = f"c{i}"
    nodes.append(helper.make_node("Relu", [last], ["y"]))
    first = layers[0] if layers else Layer("conv", 1, 1, 1, 1)
    final = layers[-1].out_channels if layers else 1
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, first.in_channels, first.height, first.width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, final, first.height, first.width])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def builders(space: TinySpace) -> Builders:
    return Builders(
        layer=lambda layer, path: write_chain((layer,), path),
        network=lambda architecture, path: write_chain(space.layers(architecture), path),
        overhead=lambda path: write_chain((), path),
    )


def setting(runtime_version: str) -> ProfileSetting:
    return ProfileSetting(TableIdentity("cpu", "onnxruntime", 1, 1, "fp32", "tiny/v1/12x12x3"), runtime_version)


def profile(
    table_path: Path, device: LocalDevice, options: ProfileOptions = OPTIONS, **changes: object
) -> LatencyTable:
    space = TinySpace()
    arguments = {"builders": builders(space), "measure": partial(device.measure, protocol=PROTOCOL)} | changes
    return profile_layers(space, setting(device.runtime_version), table_path, options=options, **arguments)  # type: ignore[arg-type]


if __name__ == "__main__":
    with LocalDevice("onnxruntime") as opened:
        profile(Path(sys.argv[1]), opened)
