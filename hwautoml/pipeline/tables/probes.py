"""How architectures and layers become files that a runtime opens: the one place that ties spaces to exporters."""

from __future__ import annotations

import math
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hwautoml.compilers import all_traits, load_backend
from hwautoml.compilers.base import Tuning
from hwautoml.core.layer import Layer
from hwautoml.core.space import Architecture, SearchSpace
from hwautoml.core.target import Target
from hwautoml.core.temporary import temporary_folder
from hwautoml.errors import InvalidValueError

if TYPE_CHECKING:
    from torch import nn

    from hwautoml.profilers.layer_profiler import Builders

HALF = ("fp16", "bf16")

_exporting = threading.Lock()  # torch's exporters keep their state in globals


def deployable_probe(
    space: SearchSpace, architecture: Architecture, path: Path, *, batch: int = 1, precision: str = "fp32"
) -> Path:
    """A whole network with random weights, normalisation and softmax included, as it would ship: uint8 in."""
    return _network(space, architecture, batch).write(path, ".onnx", precision)


def functions_probe(
    space: SearchSpace, layers: Sequence[Layer], path: Path, *, batch: int = 1, precision: str = "fp32"
) -> Path:
    """Many layers side by side in one network: compiled, it has the functions of the networks made of them, nearly all
    in int8."""
    return _functions(space, layers, batch, precision).write(path, ".onnx", precision)


def probe_builders(
    space: SearchSpace,
    target: Target,
    runtime: str,
    records: Path,
    *,
    precision: str = "fp32",
    batch: int = 1,
    num_threads: int | None = None,
) -> Builders:
    """What a profiler calls to get something to measure on ``runtime``, in files for ``num_threads`` threads.

    ``num_threads`` is the target's own where it is not given. TVM's compiler processes start with the
    first call and end with the builders.

    Raises:
        InvalidValueError: the precision is unknown, or the runtime does not have it.
    """
    from hwautoml.profilers.layer_profiler import Builders

    _require_measurable(precision, runtime, target)
    target = replace(target, num_threads=num_threads or target.num_threads)
    traits = load_backend(runtime).TRAITS
    compile_probe, num_parallel = _compiler(target, runtime, records)
    suffix = traits.source_suffix

    def build(probe: _Probe, path: Path) -> Path:
        if compile_probe is None:
            return probe.write(path, suffix, precision)
        with temporary_folder() as folder:
            compiled = compile_probe(probe.write(folder / f"probe{suffix}", suffix, precision), folder)
            path = path.with_name(path.name + compiled.suffix)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(compiled, path)
        return path

    is_channels_last = precision in traits.channels_last_in and not target.is_cuda
    return Builders(
        layer=lambda layer, path: build(
            _layer(space, replace(layer, batch=batch), is_channels_last=is_channels_last), path
        ),
        network=lambda architecture, path: build(_network(space, architecture, batch), path),
        overhead=lambda path: build(_overhead(batch), path),
        num_parallel=num_parallel,
        reads_weights=traits.reads_weights,
    )


def _require_measurable(precision: str, runtime: str, target: Target) -> None:
    if load_backend(runtime).TRAITS.runs(precision, target):
        return
    on = {
        wanted: [
            name for name, traits in all_traits().items() if wanted in (*traits.precisions, *traits.cuda_precisions)
        ]
        for wanted in ("int8", *HALF)
    }
    raise InvalidValueError(
        f"precision {precision!r} cannot be measured on {runtime}: fp32 works everywhere, int8 on "
        f"{', '.join(on['int8'])}; on GPUs fp16 on {', '.join(on['fp16'])}, bf16 on {' and '.join(on['bf16'])}"
    )


@dataclass(frozen=True)
class _Probe:
    """A module to measure; ``make`` makes it, with random weights. Its input is (N, C, H, W), images (N, H, W, C)."""

    make: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    is_network: bool = False
    dtype: str = "float32"

    def write(self, path: Path, suffix: str, precision: str) -> Path:
        if suffix != ".onnx":
            probe = self.in_half(precision) if precision in HALF else self
            return probe.write_program(path)
        if precision in HALF:
            from hwautoml.exporters.half_precision import require_onnx_precision

            require_onnx_precision(precision)
        self.write_onnx(path)
        if precision == "int8":
            from hwautoml.exporters.quantization import quantize_layer_probe, quantize_network_probe

            (quantize_network_probe if self.is_network else quantize_layer_probe)(path)
        if precision == "fp16":
            from hwautoml.exporters import half_onnx

            half_onnx(path, path, keep_io=self.is_network)
        return path

    def in_half(self, precision: str) -> _Probe:
        """A network between float32, as it would ship; a layer of sixteen bits, as it is between two others."""
        from hwautoml.exporters import Deployable, half_deployable, half_module
        from hwautoml.exporters.half_precision import DTYPES

        if self.is_network:

            def make() -> nn.Module:
                network = self.make()
                assert isinstance(network, Deployable), "networks are measured as they ship"
                return half_deployable(network, precision)

            return replace(self, make=make)
        return replace(self, make=lambda: half_module(self.make(), precision), dtype=DTYPES[precision])

    def write_onnx(self, path: Path) -> Path:
        from hwautoml.exporters import export_probe

        with _exporting:
            export_probe(self.make(), path, self.input_shape, dtype=self.dtype)
        return path

    def write_program(self, path: Path) -> Path:
        from hwautoml.exporters import export_program_probe

        with _exporting:
            export_program_probe(self.make(), path, self.input_shape, dtype=self.dtype)
        return path


def _layer(space: SearchSpace, layer: Layer, *, is_channels_last: bool = False) -> _Probe:
    if not is_channels_last:
        shape = (layer.batch, layer.in_channels, layer.height, layer.width)
        return _Probe(lambda: space.layer_module(layer), shape)

    def make() -> nn.Module:
        from torch import Tensor, nn

        class ChannelsLast(nn.Module):
            """As between two layers of a network in TVM: nothing is transposed, which is dear where rows are 4 KB."""

            def __init__(self) -> None:
                super().__init__()
                self.layer = space.layer_module(layer)

            def forward(self, x: Tensor) -> Tensor:
                y = self.layer(x.permute(0, 3, 1, 2))
                return y.permute(0, 2, 3, 1) if y.ndim == 4 else y

        return ChannelsLast()

    return _Probe(make, (layer.batch, layer.height, layer.width, layer.in_channels))


def _functions(space: SearchSpace, layers: Sequence[Layer], batch: int, precision: str) -> _Probe:
    """One flat input that each layer takes its share of, behind a convolution, as in a network: what a residual
    sum is computed with depends on the layout of the layer's input. Means over pixels keep the layers' own layout.

    No two of the convolutions in front are alike, or one map would be many layers' input. How a quantised map is stored
    depends on who reads it: in int8 each layer is read by a mean, and once more by a convolution.
    """
    shapes = [(layer.in_channels, layer.height, layer.width) for layer in layers]
    are_read_by_conv = (False, True) if precision == "int8" else (False,)

    def make() -> nn.Module:
        import torch
        from torch import Tensor, nn

        class SideBySide(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layers = nn.ModuleList(space.layer_module(layer) for _ in are_read_by_conv for layer in layers)

            def forward(self, x: Tensor) -> Tensor:
                results = []
                for number, layer in enumerate(self.layers):
                    shape, is_read_by_conv = shapes[number % len(shapes)], are_read_by_conv[number // len(shapes)]
                    y = x[:, : math.prod(shape)].reshape(batch, *shape)
                    if shape[1:] != (1, 1):
                        y = nn.functional.conv2d(y, torch.full((shape[0], shape[0], 1, 1), 1.0 + number))
                    y = layer(y)
                    if is_read_by_conv and y.ndim == 4:
                        y = nn.functional.conv2d(y, torch.ones(y.shape[1], y.shape[1], 1, 1))
                    results.append(y.mean((2, 3)) if y.ndim == 4 else y)
                return torch.cat(results, 1)

        return SideBySide()

    return _Probe(make, (batch, max(math.prod(shape) for shape in shapes)), is_network=True)


def _network(space: SearchSpace, architecture: Architecture, batch: int) -> _Probe:
    side, channels = space.resolution(architecture), space.channels

    def make() -> nn.Module:
        from hwautoml.exporters import Deployable

        return Deployable(space.module(architecture), [0.5] * channels, [0.25] * channels)

    return _Probe(make, (batch, side, side, channels), is_network=True, dtype="uint8")


def _overhead(batch: int) -> _Probe:
    def make() -> nn.Module:
        from torch import nn

        return nn.ReLU()

    return _Probe(make, (batch, 8, 1, 1))


def _compiler(target: Target, runtime: str, records: Path) -> tuple[Callable[[Path, Path], Path] | None, int]:
    """Compiles a file into a folder (None where the exported file is what the runtime opens); how many at once."""
    backend = load_backend(runtime)
    traits = backend.TRAITS
    if traits.opens_source(target):
        return None, 1
    num_parallel = min(len(os.sched_getaffinity(0)), traits.max_parallel)
    compile_model = backend.compile if traits.open_pool is None else traits.open_pool(num_parallel).compile
    tuning = Tuning(records) if traits.is_tunable(target) else None
    return (lambda source, folder: compile_model(source, folder, target, tuning).path), num_parallel
