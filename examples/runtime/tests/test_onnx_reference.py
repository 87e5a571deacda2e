"""The suite that ships with hwautoml, and what is this runtime's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import hwautoml
from hwautoml.bundles import BundleSample, PackedRuntime, write_bundle
from hwautoml.compilers import load_backend
from hwautoml.errors import UnsupportedOperatorError
from hwautoml.pipeline.verbs.checking import ModelParity
from hwautoml.tasks.classification import Classification
from hwautoml.testing.runtimes import RuntimeSuite, this_machine


class TestOnnxReference(RuntimeSuite):
    runtime = "onnx-reference"


def test_an_operator_that_nobody_defined_is_named(tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Frobnicate", ["x"], ["y"], domain="example")], "g", [x], [y])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("example", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "odd.onnx")
    with pytest.raises(UnsupportedOperatorError, match="Frobnicate"):
        load_backend("onnx-reference").compile(tmp_path / "odd.onnx", tmp_path / "out", this_machine())


def test_a_file_is_compiled_checked_and_benched_beside_another_runtime(tmp_path: Path) -> None:
    source, out = TestOnnxReference().source(tmp_path), tmp_path / "built"
    compiled = hwautoml.compile(source, runtime="onnx-reference", out=out)
    assert isinstance(compiled.parity, ModelParity) and compiled.parity.max_relative < 1e-4
    rows = hwautoml.bench([out, source], budget_sec=2.0).rows
    medians = {row.runtime: row.median_ms for row in rows}
    assert set(medians) == {"onnx-reference", "onnxruntime"}
    assert medians["onnxruntime"] < medians["onnx-reference"]


def test_a_bundle_runs_on_it_without_hwautoml(tmp_path: Path) -> None:
    source = TestOnnxReference().source(tmp_path)
    traits, rng = load_backend("onnx-reference").TRAITS, np.random.default_rng(0)
    assert traits.ships_as is not None and traits.opener is not None
    packed = PackedRuntime(traits.name, source, traits.ships_as, traits.opener, tuple(traits.packages.values()))
    image = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
    (expected,) = load_backend("onnx-reference").open_model(source)(image[None])
    bundle = write_bundle(
        tmp_path / "bundle",
        onnx_path=source,
        further=[packed],
        default_runtime="onnx-reference",
        task=Classification(("a", "b", "c", "d", "e")),
        resolution=8,
        channels=3,
        accuracy={},
        latency={},
        conditions={},
        architecture={"id": "sample"},
        parity={},
        samples=[BundleSample(image, expected)],
    )
    told = subprocess.run([sys.executable, bundle / "run.py", "--check"], capture_output=True, text=True, check=False)
    assert told.returncode == 0 and "with onnx-reference" in told.stdout, told.stderr
    assert "onnx>=1.17" in (bundle / "requirements.txt").read_text()
    checks = {check["name"]: check["status"] for check in hwautoml.verify(bundle, no_latency=True)["checks"]}
    assert checks["samples on onnx-reference"] == "passed"
