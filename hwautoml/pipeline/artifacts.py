"""How architectures and layers become files that a runtime opens: the one place that ties spaces to exporters."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hwautoml.compilers import load_backend
from hwautoml.core.layer import Layer
from hwautoml.core.space import Architecture, SearchSpace
from hwautoml.core.target import Target

if TYPE_CHECKING:
    from hwautoml.profilers.layer_profiler import Builders
    from hwautoml.spaces.mobile import MobileSpace


def layer_probe(space: SearchSpace, layer: Layer, path: Path) -> Path:
    """One layer with random weights as ONNX; latency does not depend on the weights."""
    from hwautoml.exporters import export_probe

    export_probe(space.layer_module(layer), path, (layer.batch, layer.in_channels, layer.height, layer.width))
    return path


def deployable_probe(space: MobileSpace, architecture: Architecture, path: Path) -> Path:
    """A whole network with random weights, normalisation and softmax included, as it would ship."""
    from hwautoml.exporters import Deployable, export_probe

    side, channels = space.resolution(architecture), space.channels
    module = Deployable(space.module(architecture), [0.5] * channels, [0.25] * channels)
    export_probe(module, path, (1, side, side, channels))
    return path


def overhead_probe(path: Path) -> Path:
    """A network that does next to nothing: what calling the runtime costs."""
    from torch import nn

    from hwautoml.exporters import export_probe

    export_probe(nn.ReLU(), path, (1, 8, 1, 1))
    return path


def probe_builders(space: MobileSpace, target: Target, runtime: str, records: Path) -> Builders:
    """What a profiler calls to get something to measure on ``runtime``."""
    from hwautoml.profilers.layer_profiler import Builders

    def compiled(write: Callable[[Path], Path], path: Path) -> Path:
        if runtime == "onnxruntime":
            return write(path)
        with tempfile.TemporaryDirectory(prefix="hwautoml-") as folder:
            onnx_path = write(Path(folder) / "probe.onnx")
            model = load_backend(runtime).compile_model(
                onnx_path, Path(folder), tvm_target=target.tvm, num_threads=target.num_threads, records_path=records
            )
            path = path.with_name(path.name + model.path.suffix)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(model.path, path)
        return path

    return Builders(
        layer=lambda layer, path: compiled(lambda p: layer_probe(space, layer, p), path),
        network=lambda architecture, path: compiled(lambda p: deployable_probe(space, architecture, p), path),
        overhead=lambda path: compiled(overhead_probe, path),
    )


def slug(text: str) -> str:
    """``mobile/v1/32x32x3`` to ``mobile-v1-32x32x3``: fit for a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")
