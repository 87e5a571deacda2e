from __future__ import annotations

import collections
import json
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from hwautoml.core.artifact import Artifact, sha256_file
from hwautoml.core.space import Architecture
from hwautoml.errors import CompileError, InvalidValueError, StorageError
from hwautoml.exporters import Deployable, export_onnx
from hwautoml.tasks.classification import Classification

CLASSES = ("ant", "bee", "cat", "dog", "éléphant")
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
ARCHITECTURE = Architecture("mobile/v1", (("depth", 2), ("kernel", 3)))


def export(network: nn.Module, path: Path, **changes: object) -> Artifact:
    settings = {
        "resolution": 16,
        "channels": 3,
        "mean": MEAN,
        "std": STD,
        "task": Classification(tuple(CLASSES)),
        "architecture": ARCHITECTURE,
        "metadata": {"dataset": "photos"},
        **changes,
    }
    return export_onnx(network, path, **settings)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Artifact]:
    path = tmp_path_factory.mktemp("exported") / "new" / "model.onnx"
    from torch import manual_seed

    manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.BatchNorm2d(8),
        nn.Hardswish(),
        nn.Flatten(),
        nn.Linear(8 * 16 * 16, 5),
    )
    network(torch.randn(8, 3, 16, 16))  # gives the normalisations statistics of their own
    return network, export(network, path)


def test_computes_what_the_network_computes(exported: tuple[nn.Module, Artifact]) -> None:
    network, artifact = exported
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(str(artifact.path))
    found = np.concatenate([session.run(None, {"images": image[None]})[0] for image in images])
    with torch.no_grad():
        normalised = (images / 255 - np.array(MEAN)) / np.array(STD)
        logits = network.eval()(torch.from_numpy(normalised).permute(0, 3, 1, 2).float())
    assert np.abs(found - torch.softmax(logits, 1).numpy()).max() < 1e-6
    assert found.sum(axis=1) == pytest.approx(1, abs=1e-6)


def test_form_of_the_model(exported: tuple[nn.Module, Artifact]) -> None:
    model = onnx.load(exported[1].path)
    onnx.checker.check_model(model, full_check=True)
    graph = model.graph
    (images,), (probabilities,) = graph.input, graph.output
    assert (images.name, probabilities.name) == ("images", "probabilities")
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_value for d in images.type.tensor_type.shape.dim] == [1, 16, 16, 3]
    assert [d.dim_value for d in probabilities.type.tensor_type.shape.dim] == [1, 5]
    known = {value.name for value in (*graph.value_info, *graph.output)}
    assert {name for node in graph.node for name in node.output} <= known
    assert not [i for i in graph.initializer if i.data_location == onnx.TensorProto.EXTERNAL]


def test_batch_normalisation_is_folded(exported: tuple[nn.Module, Artifact]) -> None:
    counts = collections.Counter(node.op_type for node in onnx.load(exported[1].path).graph.node)
    assert "BatchNormalization" not in counts
    assert counts["Conv"] == 2


def test_model_describes_itself(exported: tuple[nn.Module, Artifact]) -> None:
    model = onnx.load(exported[1].path)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(facts["classes"]) == list(CLASSES)
    assert facts["architecture_id"] == ARCHITECTURE.id
    assert json.loads(facts["architecture"]) == {"space": "mobile/v1", "values": {"depth": 2, "kernel": 3}}
    assert json.loads(facts["mean"]) == list(MEAN) and json.loads(facts["std"]) == list(STD)
    assert facts["torch_version"] == torch.__version__
    assert facts["dataset"] == "photos"
    assert model.producer_name == "hwautoml"


def test_nothing_of_this_machine_is_inside(exported: tuple[nn.Module, Artifact]) -> None:
    data = exported[1].path.read_bytes()
    assert b".py" not in data and b"/home" not in data and b"site-packages" not in data


def test_artifact(exported: tuple[nn.Module, Artifact]) -> None:
    artifact = exported[1]
    assert artifact.format == "onnx"
    assert artifact.architecture_id == ARCHITECTURE.id
    assert artifact.size_bytes == artifact.path.stat().st_size
    assert artifact.sha256 == sha256_file(artifact.path)
    assert [path.name for path in artifact.path.parent.iterdir()] == ["model.onnx"]


def test_same_bytes_silently_and_without_side_effects(
    network: nn.Module, tmp_path: Path, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    network.to(memory_format=torch.channels_last).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = export(network, tmp_path / "one.onnx")
        other = export(network, tmp_path / "other.onnx")
    assert one.sha256 == other.sha256
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert onnx.load(one.path).graph.node[0].doc_string == ""


def test_grey_and_plain_architecture(grey_network: nn.Module, tmp_path: Path) -> None:
    artifact = export(
        grey_network,
        tmp_path / "grey.onnx",
        channels=1,
        mean=(0.3,),
        std=(0.3,),
        architecture={"width": 16},
        metadata=None,
    )
    session = onnxruntime.InferenceSession(str(artifact.path))
    assert session.run(None, {"images": np.zeros((1, 16, 16, 1), np.uint8)})[0].shape == (1, 5)
    assert len(artifact.architecture_id) == 12


def test_wrong_number_of_classes(network: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"\(1, 5\), expected .* to \(1, 2\)"):
        export(network, tmp_path / "model.onnx", task=Classification(("a", "b")))
    assert list(tmp_path.iterdir()) == []


class DataDependent(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x.mean((2, 3))
        return x.amax((2, 3))


def test_what_torch_cannot_export(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=f"cannot export architecture {ARCHITECTURE.id} to ONNX"):
        export(DataDependent(), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_former_file(
    network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"former")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hwautoml.core.storage.os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        export(network, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_bytes() == b"former"


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.2, 0.2)), ((), ()), ((0.5,), (0.0,)), ((0.5,), (float("nan"),))])
def test_bad_normalisation(mean: tuple, std: tuple) -> None:
    with pytest.raises(InvalidValueError, match="one mean and one positive std"):
        Deployable(nn.Identity(), mean, std)


def test_importing_the_room_loads_neither_torch_nor_onnx() -> None:
    code = "import sys, hwautoml.exporters; print([m for m in ('torch', 'onnx') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
