from __future__ import annotations

import collections
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from hwautoml.errors import CompileError
from hwautoml.exporters import export_probe


def optimised_operations(path: Path) -> collections.Counter[str]:
    """What ONNX Runtime runs on this machine, after fusing and choosing layouts."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path.with_suffix(".optimised.onnx"))
    options.log_severity_level = 3  # it warns that the optimised file is for this machine only
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(options.optimized_model_filepath).graph.node
    return collections.Counter(node.op_type for node in nodes if node.op_type != "Identity")


def test_runs_and_computes_the_same(network: nn.Module, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        artifact = export_probe(network, tmp_path / "new" / "probe.onnx", (1, 3, 16, 16))
    assert capfd.readouterr() == ("", "")
    assert artifact.size_bytes == artifact.path.stat().st_size
    x = torch.randn(1, 3, 16, 16)
    found = onnxruntime.InferenceSession(str(artifact.path)).run(None, {"images": x.numpy()})[0]
    with torch.no_grad():
        assert np.abs(found - network(x).numpy()).max() < 1e-5


def test_runtime_sees_the_operations_of_the_full_export(network: nn.Module, tmp_path: Path) -> None:
    probe = export_probe(network, tmp_path / "probe.onnx", (1, 3, 16, 16))
    full = tmp_path / "full.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own
        torch.onnx.export(network, (torch.zeros(1, 3, 16, 16),), full, dynamo=True, external_data=False, verbose=False)
    assert optimised_operations(probe.path) == optimised_operations(full)


def test_what_torch_cannot_export(tmp_path: Path) -> None:
    class Exotic(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.svdvals(x)

    with pytest.raises(CompileError, match="cannot export Exotic for measuring"):
        export_probe(Exotic(), tmp_path / "probe.onnx", (1, 3, 4, 4))
    assert list(tmp_path.iterdir()) == []
