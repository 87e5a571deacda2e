from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from hwautoml.errors import CompileError
from hwautoml.exporters import Deployable, export_program


def test_the_program_computes_the_same_and_says_nothing_of_this_machine(network: nn.Module, tmp_path: Path) -> None:
    module = Deployable(network, (0.5,) * 3, (0.25,) * 3).train()
    artifact = export_program(module, tmp_path / "new" / "net.pt2", (2, 16, 16, 3), dtype="uint8")
    assert module.training
    assert artifact.size_bytes == artifact.path.stat().st_size
    x = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.load(artifact.path).module()(x), module.eval()(x))
    with zipfile.ZipFile(artifact.path) as archive:
        model = next(name for name in archive.namelist() if name.endswith("models/model.json"))
        assert ".py" not in archive.read(model).decode()
        assert not [entry for entry in archive.infolist() if "sample_inputs" in entry.filename and entry.file_size]


def test_what_torch_cannot_export(tmp_path: Path) -> None:
    class Undecided(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(CompileError, match="cannot export Undecided"):
        export_program(Undecided(), tmp_path / "net.pt2", (1, 3, 4, 4))
    assert list(tmp_path.iterdir()) == []
