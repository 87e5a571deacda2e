"""The unseen networks of ``latency_model``: drawn once, exported as they ship, one file per runtime and precision."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from hwautoml.core.space import Architecture
from hwautoml.core.target import Target
from hwautoml.spaces.mobile import MobileSpace

MEAN, STD = [0.5] * 3, [0.25] * 3
Done = Callable[[int, int, str], None]


def draw(space: MobileSpace, number: int, seed: int) -> list[Architecture]:
    """Distinct architectures, every choice uniform."""
    rng = np.random.default_rng([seed, 20_000])
    drawn: dict[str, Architecture] = {}
    while len(drawn) < number:
        architecture = space.sample(rng)
        drawn.setdefault(architecture.id, architecture)
    return list(drawn.values())


def shipped_files(
    space: MobileSpace,
    target: Target,
    runtime: str,
    precision: str,
    architectures: Sequence[Architecture],
    folder: Path,
    on_done: Done,
    *,
    quick: bool = False,
) -> list[Path]:
    """One file each, in order; what is there already is kept.

    ``quick`` exports through the profiler's exporters: the same operations, ten times as fast, nothing checked.
    """
    onnx = [folder / "onnx" / f"{a.id}.onnx" for a in architectures]
    if runtime in ("torch", "torch-inductor"):
        sources = [folder / "programs" / f"{a.id}.pt2" for a in architectures]
        program = _quick_program if quick else _program
        _make(sources, [partial(program, space, a) for a in architectures], "exporting", on_done)
    else:
        sources = onnx
        export = _quick_onnx if quick else _onnx
        _make(sources, [partial(export, space, a) for a in architectures], "exporting", on_done)
    if precision == "int8":
        paths = [folder / "int8" / path.name for path in sources]
        _make(paths, [partial(_int8, s) for s in sources], "quantising", on_done)
        return paths
    return sources if runtime in ("onnxruntime", "torch") else _compiled(sources, target, runtime, folder, on_done)


def _make(paths: Sequence[Path], makers: Sequence[Callable[[Path], object]], what: str, on_done: Done) -> None:
    for number, (path, make) in enumerate(zip(paths, makers, strict=True)):
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            make(path)
            on_done(number + 1, len(paths), what)


def _onnx(space: MobileSpace, architecture: Architecture, path: Path) -> None:
    from hwautoml.exporters import export_onnx
    from hwautoml.tasks.classification import Classification

    export_onnx(
        space.module(architecture),
        path,
        resolution=space.resolution(architecture),
        channels=space.channels,
        mean=MEAN,
        std=STD,
        task=Classification(tuple(str(i) for i in range(space.num_outputs))),
        architecture=architecture,
    )


def _quick_onnx(space: MobileSpace, architecture: Architecture, path: Path) -> None:
    from hwautoml.pipeline.tables.probes import deployable_probe

    deployable_probe(space, architecture, path)


def _program(space: MobileSpace, architecture: Architecture, path: Path) -> None:
    from hwautoml.exporters import Deployable, export_program

    side = space.resolution(architecture)
    module = Deployable(space.module(architecture), MEAN, STD)
    export_program(module, path, (1, side, side, space.channels), dtype="uint8")


def _quick_program(space: MobileSpace, architecture: Architecture, path: Path) -> None:
    from hwautoml.exporters import Deployable, export_program_probe

    side = space.resolution(architecture)
    module = Deployable(space.module(architecture), MEAN, STD)
    export_program_probe(module, path, (1, side, side, space.channels), dtype="uint8")


def _int8(source: Path, path: Path) -> None:
    """Calibrated on random images: weights and values do not change what a network costs."""
    from hwautoml.exporters.quantization import quantize_network_probe

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        copy = Path(shutil.copy(source, folder))
        quantize_network_probe(copy)
        copy.replace(path)


def _compiled(sources: Sequence[Path], target: Target, runtime: str, folder: Path, on_done: Done) -> list[Path]:
    from hwautoml.compilers import load_backend
    from hwautoml.compilers.tvm import CompilerPool

    backend = load_backend(runtime)
    paths = [folder / runtime / f"{source.stem}{backend.TRAITS.suffix}" for source in sources]
    num_parallel = len(os.sched_getaffinity(0)) if runtime == "tvm" else 1
    with CompilerPool(num_workers=num_parallel) as pool, ThreadPoolExecutor(num_parallel) as threads:
        compile_model = pool.compile if runtime == "tvm" else backend.compile

        def compile_one(number: int) -> None:
            if paths[number].is_file():
                return
            paths[number].parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=paths[number].parent) as temporary:
                model = compile_model(sources[number], Path(temporary), target)
                model.path.replace(paths[number])
            on_done(number + 1, len(paths), "compiling")

        list(threads.map(compile_one, range(len(paths))))
    return paths
