"""The schedules' code on processors for which there are no wheels of TVM, emulated one kernel at a time."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from hwautoml.exporters.quantization import quantize_network_probe
from hwautoml.schedules.dispatch import Machine
from hwautoml.schedules.host import resolve_target
from hwautoml.schedules.library import functions_of, schedule_module
from hwautoml.schedules.vector_unit import vector_unit
from tests.compilers.graphs import GraphBuilder
from tests.edge.kernels import Processor, run_here, run_there
from tests.schedules.single import functions

_RISCV = {"kind": "llvm", "mtriple": "riscv64-linux-gnu", "mabi": "lp64d"}
_BASE = ["+m", "+a", "+f", "+d", "+c"]
PROCESSORS = {
    "armv7 with NEON": Processor(
        {"kind": "llvm", "mtriple": "armv7a-linux-gnueabihf", "mcpu": "cortex-a7", "mattr": ["+neon", "+vfp4"]},
        ("qemu-arm-static", "-cpu", "cortex-a7"),
        "arm-linux-musleabihf",
    ),
    "arm64 with products of bytes": Processor(
        {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76"},
        ("qemu-aarch64-static", "-cpu", "cortex-a76"),
        "aarch64-linux-musl",
    ),
    "riscv64 without vectors": Processor(
        {**_RISCV, "mcpu": "sifive-u74"}, ("qemu-riscv64-static", "-cpu", "rv64,v=false"), "riscv64-linux-musl"
    ),
    "riscv64 with vectors of 128 bits": Processor(
        {**_RISCV, "mcpu": "generic-rv64", "mattr": [*_BASE, "+v"]},
        ("qemu-riscv64-static", "-cpu", "rv64,v=true,vlen=128,vext_spec=v1.0"),
        "riscv64-linux-musl",
    ),
    "riscv64 with vectors of 256 bits": Processor(
        {**_RISCV, "mcpu": "generic-rv64", "mattr": [*_BASE, "+v", "+zvl256b"]},
        ("qemu-riscv64-static", "-cpu", "rv64,v=true,vlen=256,vext_spec=v1.0"),
        "riscv64-linux-musl",
    ),
}
pytestmark = [
    pytest.mark.edge,
    pytest.mark.skipif(shutil.which("qemu-riscv64-static") is None, reason="no qemu: apt-get install qemu-user-static"),
]


def _qemu_version(processor: Processor) -> int:
    told = subprocess.run([processor.qemu[0], "--version"], capture_output=True, text=True, check=True).stdout
    return int(told.split("version ")[1].split(".")[0])


def network(path: Path) -> Path:
    """Dense (in tiles and with stride), grouped, depthwise and 1 x 1 convolutions, a gate, a linear layer, softmax."""
    graph = GraphBuilder((1, 3, 20, 20))
    x = graph.activation(graph.conv("images", 3, 16, 3, stride=2), "relu")
    x = graph.activation(graph.conv(x, 16, 24, 3), "relu")
    x = graph.activation(graph.conv(graph.conv(x, 24, 40, 1), 40, 40, 5, groups=40), "hardswish")
    x = graph.squeeze_excite(graph.conv(x, 40, 40, 3, groups=2), 40, "hardsigmoid")
    return graph.save(path, graph.head(x, 40, 10))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", PROCESSORS)
def test_every_kernel_computes_what_plain_loops_do(name: str, precision: str, tmp_path: Path) -> None:
    pytest.importorskip("ziglang", reason="nothing links for it: pip install 'hwautoml[edge]'")
    processor = PROCESSORS[name]
    if precision == "int8" and "with vectors" in name and _qemu_version(processor) < 8:
        pytest.skip("qemu before 8 fails in itself where vectors are narrowed")
    target = resolve_target(processor.target, 1)
    path = network(tmp_path / "net.onnx")
    if precision == "int8":
        quantize_network_probe(path)
    module = functions(path, target)
    scheduled, report = schedule_module(module, Machine(vector_unit(target)), {})
    assert not report.fallbacks
    plain, fast = functions_of(module), functions_of(scheduled)
    assert len(plain) > 8 and plain.keys() == fast.keys()
    for kernel, function in fast.items():
        folder = tmp_path / f"kernel{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        expected, got = run_here(plain[kernel]), run_there(function, processor, folder)
        for here, there in zip(expected, got, strict=True):
            np.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-5 * np.abs(here).max(), err_msg=kernel)
