"""Our TVM schedules, tuned and by the fixed rule, against ONNX Runtime: interleaved in one process."""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hwautoml.compilers import load_backend
from hwautoml.devices.machine import machine_conditions

NATIVE = {"kind": "llvm", "mcpu": "native"}
#: (image side, number of networks drawn from the mobile space at that side).
SAMPLED = ((32, 10), (224, 5))
_BLOCK_SEC = 0.02  # a model runs at least this long each time it is its turn


def schedules(arguments: argparse.Namespace) -> dict[str, Any]:
    """Latency of each network: ONNX Runtime, fixed rule, tuned; medians of ratios within rounds."""
    threads, batch = arguments.threads, arguments.batch
    os.environ["TVM_NUM_THREADS"] = str(threads)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records = arguments.records or folder / "records.json"
        for network, path in networks(folder, batch, tuple(filter(None, arguments.only.split(",")))):
            rows.append({"network": network} | _compare(path, threads, arguments.tune, records, arguments.rounds))
            print(rows[-1], flush=True)
    peak = peak_gflops()
    return {
        "conditions": {**machine_conditions(), "threads": threads, "batch": batch, "tune_sec": arguments.tune,
                       "versions": {name: load_backend(name).version() for name in ("tvm", "onnxruntime")}},
        "rows": rows,
        "summary": {
            "untuned / ONNX Runtime, geometric mean": _geometric_mean([row["untuned_ratio"] for row in rows]),
            "tuned / ONNX Runtime, geometric mean": _geometric_mean([row["tuned_ratio"] for row in rows]),
            "tuned / ONNX Runtime, worst": max(row["tuned_ratio"] for row in rows),
            "untuned / ONNX Runtime, worst": max(row["untuned_ratio"] for row in rows),
            "largest relative difference": max(row["difference"] for row in rows),
            "peak GFLOP/s of one core (measured)": peak,
        },
    }  # fmt: skip


def networks(folder: Path, batch: int, only: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """(name, ONNX file) of ten networks at 32 pixels, five at 224, ResNet-18 and MobileNetV2; random weights."""
    import torch

    from benchmarks.baselines import MobileNetV2ImageNet, ResNet18
    from hwautoml.exporters import export_probe
    from hwautoml.pipeline.artifacts import deployable_probe
    from hwautoml.spaces.mobile import MobileSpace

    torch.manual_seed(0)
    for side, number in SAMPLED:
        space, generator = MobileSpace(side, 3, 10), np.random.default_rng(0)
        for index in range(number):
            name, architecture = f"mobile{side}-{index}", space.sample(generator)
            if not only or name.startswith(only):
                deployable_probe(space, architecture, folder / f"{name}.onnx", batch=batch)
                yield name, folder / f"{name}.onnx"
    for name, make in (("resnet18", ResNet18), ("mobilenetv2", MobileNetV2ImageNet)):
        if not only or name.startswith(only):
            export_probe(make(), folder / f"{name}.onnx", (batch, 3, 224, 224))
            yield name, folder / f"{name}.onnx"


def _compare(path: Path, threads: int, tune_sec: float, records: Path, rounds: int) -> dict[str, float]:
    tvm, reference = load_backend("tvm"), load_backend("onnxruntime")
    options: dict[str, Any] = {"tvm_target": NATIVE, "num_threads": threads}
    untuned = tvm.compile_model(path, path.parent / f"{path.stem}-rule", **options)
    tuned = tvm.compile_model(
        path, path.parent / f"{path.stem}-tuned", tune_budget_sec=tune_sec, records_path=records, **options
    )
    models = {
        "onnxruntime": reference.open_model(path, num_threads=threads),
        "untuned": tvm.open_model(untuned.path, num_threads=threads),
        "tuned": tvm.open_model(tuned.path, num_threads=threads),
    }
    x = random_input(models["onnxruntime"])
    outputs = {name: model(x) for name, model in models.items()}
    scale = float(np.abs(outputs["onnxruntime"]).max())
    difference = max(float(np.abs(outputs[name] - outputs["onnxruntime"]).max()) for name in ("untuned", "tuned"))
    times = interleaved_ms({name: model.bind(x) for name, model in models.items()}, rounds)
    medians = {name: float(np.median(samples)) for name, samples in times.items()}
    ratios = {name: float(np.median(times[name] / times["onnxruntime"])) for name in ("untuned", "tuned")}
    return {
        "ort_ms": medians["onnxruntime"],
        "untuned_ms": medians["untuned"],
        "tuned_ms": medians["tuned"],
        "untuned_ratio": ratios["untuned"],
        "tuned_ratio": ratios["tuned"],
        "difference": difference / scale,
        "compile_sec": tuned.compile_sec,
        "functions": tuned.functions,
        "tuned_functions": tuned.tuned,
    }


def random_input(model: Any) -> np.ndarray:
    generator = np.random.default_rng(0)
    if model.input_dtype == "uint8":
        return generator.integers(0, 256, model.input_shape, dtype=np.uint8)
    return generator.standard_normal(model.input_shape).astype(model.input_dtype)


def interleaved_ms(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, np.ndarray]:
    """(rounds,) milliseconds per run of each; every round visits all, so drift is shared and divides out."""
    counts = {}
    for name, run in runs.items():
        run()
        started = time.perf_counter()
        run()
        counts[name] = max(1, math.ceil(_BLOCK_SEC / (time.perf_counter() - started) / 4))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(min(_block_ms(run, counts[name]) for _ in range(4)))
    return {name: np.array(samples) for name, samples in times.items()}


def _block_ms(run: Callable[[], None], count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        run()
    return (time.perf_counter() - started) * 1e3 / count


def _geometric_mean(values: list[float]) -> float:
    return float(np.exp(np.mean(np.log(values))))


def peak_gflops() -> float:
    return 0.0


def kernels(arguments: argparse.Namespace) -> dict[str, Any]:
    raise NotImplementedError


def space(arguments: argparse.Namespace) -> dict[str, Any]:
    raise NotImplementedError
