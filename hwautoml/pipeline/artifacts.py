"""How architectures and layers become files that a runtime opens: the one place that ties spaces to exporters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hwautoml.core.layer import Layer
from hwautoml.core.space import Architecture, SearchSpace

if TYPE_CHECKING:
    from hwautoml.spaces.mobile import MobileSpace


def layer_probe(space: SearchSpace, layer: Layer, path: Path) -> Path:
    """One layer with random weights as ONNX; latency does not depend on the weights."""
    from hwautoml.exporters import export_probe

    if not path.is_file():
        shape = (layer.batch, layer.in_channels, layer.height, layer.width)
        export_probe(space.layer_module(layer), path, shape)
    return path


def deployable_probe(space: MobileSpace, architecture: Architecture, path: Path) -> Path:
    """A whole network with random weights, normalisation and softmax included, as it would ship."""
    from hwautoml.exporters import Deployable, export_probe

    if not path.is_file():
        side, channels = space.resolution(architecture), space.channels
        module = Deployable(space.module(architecture), [0.5] * channels, [0.25] * channels)
        export_probe(module, path, (1, side, side, channels))
    return path
