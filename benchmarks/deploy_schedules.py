"""Our TVM schedules, tuned and by the fixed rule, against ONNX Runtime: interleaved in one process."""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hwautoml.compilers import load_backend
from hwautoml.compilers.base import Tuning
from hwautoml.core.resources import package_folder
from hwautoml.core.target import Target, load_target
from hwautoml.devices.machine import machine_conditions

NATIVE = {"kind": "llvm", "mcpu": "native"}


def host(threads: int) -> Target:
    """This machine's processor."""
    return replace(load_target("cpu", [package_folder("targets")]), tvm=NATIVE, num_threads=threads)


#: (image side, number of networks drawn from the mobile space at that side).
SAMPLED = ((32, 10), (224, 5))
#: A model runs at least this long each time it is its turn, in so many blocks of which the fastest counts.
_BLOCK_SEC, _BLOCKS = 0.03, 6


def schedules(arguments: argparse.Namespace) -> dict[str, Any]:
    """Latency of each network: ONNX Runtime, fixed rule, tuned; medians of ratios within rounds.

    Without time for tuning, "tuned" is what the records know; without records either, it is left out.
    """
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
        "conditions": {
            **machine_conditions(),
            "threads": threads,
            "batch": batch,
            "tune_sec": arguments.tune,
            "versions": {name: load_backend(name).version() for name in ("tvm", "onnxruntime")},
        },
        "rows": rows,
        "summary": {
            **_ratios(rows, "untuned"),
            **(_ratios(rows, "tuned") if "tuned_ratio" in rows[0] else {}),
            "largest relative difference": max(row["difference"] for row in rows),
            "peak GFLOP/s of one core (measured)": peak,
        },
    }


def _ratios(rows: list[dict[str, Any]], form: str) -> dict[str, float]:
    ratios = [row[f"{form}_ratio"] for row in rows]
    return {
        f"{form} / ONNX Runtime, geometric mean": geometric_mean(ratios),
        f"{form} / ONNX Runtime, worst": max(ratios),
    }


def networks(folder: Path, batch: int, only: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """(name, ONNX file) of ten networks at 32 pixels, five at 224, ResNet-18 and MobileNetV2; random weights."""
    import torch

    from benchmarks.baselines import MobileNetV2ImageNet, ResNet18
    from hwautoml.exporters import export_probe
    from hwautoml.pipeline.tables.probes import deployable_probe
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
    target = host(threads)
    compiled = {"untuned": tvm.compile(path, path.parent / f"{path.stem}-rule", target)}
    if tune_sec or records.is_file():
        compiled["tuned"] = tvm.compile(path, path.parent / f"{path.stem}-tuned", target, Tuning(records, tune_sec))
    models = {"onnxruntime": reference.open_model(path, num_threads=threads)}
    models |= {form: tvm.open_model(found.path, num_threads=threads) for form, found in compiled.items()}
    x = random_input(models["onnxruntime"])
    outputs = {name: model(x) for name, model in models.items()}
    scale = float(np.abs(outputs["onnxruntime"]).max())
    difference = max(float(np.abs(outputs[name] - outputs["onnxruntime"]).max()) for name in compiled)
    times = interleaved_ms({name: model.bind(x) for name, model in models.items()}, rounds, threads)
    medians = {name: float(np.median(samples)) for name, samples in times.items()}
    last = compiled.get("tuned", compiled["untuned"])
    return {
        "ort_ms": medians["onnxruntime"],
        **{f"{form}_ms": medians[form] for form in compiled},
        **{f"{form}_ratio": float(np.median(times[form] / times["onnxruntime"])) for form in compiled},
        "difference": difference / scale,
        "compile_sec": last.compile_sec,
        "functions": last.functions,
        "tuned_functions": last.tuned,
    }


def random_input(model: Any) -> np.ndarray:
    generator = np.random.default_rng(0)
    if model.input_dtype == "uint8":
        return generator.integers(0, 256, model.input_shape, dtype=np.uint8)
    return generator.standard_normal(model.input_shape).astype(model.input_dtype)


def interleaved_ms(runs: dict[str, Callable[[], None]], rounds: int, threads: int) -> dict[str, np.ndarray]:
    """(rounds,) milliseconds per run of each; every round visits all, so drift is shared and divides out.

    With one thread, time of that thread: what other processes take from it is not the model's.
    """
    clock = time.thread_time if threads == 1 else time.perf_counter
    counts = {}
    for name, run in runs.items():
        run()
        counts[name] = max(1, math.ceil(_BLOCK_SEC * 1e3 / _BLOCKS / min(_block_ms(run, 1, clock) for _ in range(3))))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(min(_block_ms(run, counts[name], clock) for _ in range(_BLOCKS)))
    return {name: np.array(samples) for name, samples in times.items()}


def _block_ms(run: Callable[[], None], count: int, clock: Callable[[], float]) -> float:
    started = clock()
    for _ in range(count):
        run()
    return (clock() - started) * 1e3 / count


def geometric_mean(values: list[float]) -> float:
    return float(np.exp(np.mean(np.log(values))))


def peak_gflops() -> float:
    """What one core reaches in independent vector multiply-adds on registers: the roof of every convolution."""
    import tvm
    from tvm.script import tirx as T

    from hwautoml.schedules.host import resolve_target
    from hwautoml.schedules.vector_unit import vector_unit

    target = resolve_target(NATIVE, 1)
    lanes, steps, chains = vector_unit(target).lanes, 100_000, 10

    # TVMScript: what stands for types are TVM's.
    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]  # TVM is untyped
    def main(x: T.Buffer((lanes,), "float32"), y: T.Buffer((chains * lanes,), "float32")) -> None:  # type: ignore[valid-type]  # TVM's
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        sums = T.alloc_buffer((chains * lanes,), "float32", scope="local")
        for chain in T.unroll(chains):
            for lane in T.vectorized(lanes):
                sums[chain * lanes + lane] = y[chain * lanes + lane]
        for _ in T.serial(steps):
            for chain in T.unroll(chains):
                for lane in T.vectorized(lanes):
                    sums[chain * lanes + lane] = sums[chain * lanes + lane] * x[lane] + x[lane]
        for chain in T.unroll(chains):
            for lane in T.vectorized(lanes):
                y[chain * lanes + lane] = sums[chain * lanes + lane]

    library = tvm.compile(tvm.IRModule({"main": main}), target=target).jit()
    arguments = [tvm.runtime.tensor(np.full(size, 0.5, "float32")) for size in (lanes, chains * lanes)]
    evaluator = library.time_evaluator("main", tvm.cpu(), number=5, repeat=20)
    return 2 * steps * chains * lanes / min(evaluator(*arguments).results) / 1e9


def kernels(arguments: argparse.Namespace) -> dict[str, Any]:
    """Microseconds per kind of kernel, ours by the fixed rule or the records, and ONNX Runtime's own profile.

    ONNX Runtime's profiler adds about a microsecond a node; convolutions of less than that mean little.
    """
    os.environ["TVM_NUM_THREADS"] = "1"
    ours, theirs = defaultdict[str, float](float), defaultdict[str, float](float)
    steps: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        for _, path in networks(Path(name), arguments.batch, tuple(filter(None, arguments.only.split(",")))):
            for kind, time_us, num_steps in _our_kernels(path, arguments.records):
                ours[kind] += time_us
                steps[kind] += num_steps
            for kind, time_us in _onnxruntime_kernels(path).items():
                theirs[kind] += time_us
    peak = peak_gflops()
    rows = []
    for kind in sorted({*ours, *theirs}, key=lambda kind: -theirs[kind]):
        row: dict[str, Any] = {"kind": kind, "ours_us": ours[kind], "onnxruntime_us": theirs[kind]}
        row["ratio"] = ours[kind] / theirs[kind] if theirs[kind] else float("nan")
        if steps[kind]:
            row["ours_gflops"] = 2e-3 * steps[kind] / ours[kind]
            row["share_of_peak"] = row["ours_gflops"] / peak
        rows.append(row)
    return {"conditions": machine_conditions(), "rows": rows, "summary": {"peak GFLOP/s (measured)": peak}}


def _our_kernels(path: Path, records_path: Path | None) -> Iterator[tuple[str, float, int]]:
    """(kind, microseconds, multiply-adds) of every call of the network's functions."""
    from hwautoml.compilers._files import read_onnx
    from hwautoml.schedules.dispatch import Machine
    from hwautoml.schedules.host import record_key, resolve_target
    from hwautoml.schedules.kernel import Kernel
    from hwautoml.schedules.library import functions_of, schedule_module
    from hwautoml.schedules.lowering import import_onnx, lower
    from hwautoml.schedules.records import Records
    from hwautoml.schedules.timing import count_calls, time_us
    from hwautoml.schedules.vector_unit import vector_unit

    target = resolve_target(NATIVE, 1)
    module = lower(import_onnx(read_onnx(path), path.name), target, path.name)
    tilings = Records.load(records_path).tilings(record_key(target))
    scheduled, _ = schedule_module(module, Machine(vector_unit(target)), tilings)
    calls, functions = count_calls(module), functions_of(module)
    for name, function in functions_of(scheduled).items():
        kernel = Kernel(functions[name])
        number = calls[name]
        num_steps = kernel.num_steps if kernel.reductions else 0
        yield _our_kind(name, kernel), number * time_us(function, target), number * num_steps


def _our_kind(name: str, kernel: Any) -> str:
    if "depthwise" in name:
        height, width = kernel.reduction_extents(kernel.reduction)
        return f"depthwise {height}x{width}"
    if "dense" in name:
        return "dense"
    if "winograd" in name:
        return "convolution 3x3"
    if "packed_conv2d" in name:
        extents = kernel.reduction_extents(kernel.reduction)
        pixels = kernel.spatial_extents(kernel.near[0])[1:3] if kernel.near else [1, 1]
        size = f"{extents[0]}x{extents[1]}" if len(extents) == 3 else "1x1"
        return "squeeze-excite 1x1" if math.prod(pixels) == 1 else f"convolution {size}"
    return "pooling" if kernel.reductions and "softmax" not in name else "other"


def _onnxruntime_kernels(path: Path) -> dict[str, float]:
    """Microseconds of one run by kind, from ONNX Runtime's profiler, the median of thirty runs per node."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    options.profile_file_prefix = str(path.with_suffix(""))
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    x = random_input(load_backend("onnxruntime").open_model(path))
    for _ in range(30):
        session.run(None, {session.get_inputs()[0].name: x})
    events = json.loads(Path(session.end_profiling()).read_text())
    nodes: dict[str, list[tuple[str, float]]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes.setdefault(event["name"], []).append((_their_kind(event["args"]), event["dur"]))
    times = defaultdict[str, float](float)
    for samples in nodes.values():
        times[samples[0][0]] += float(np.median([time for _, time in samples]))
    return times


def _their_kind(arguments: dict[str, Any]) -> str:
    shapes = [shape for item in arguments.get("input_type_shape", []) for shape in item.values()]
    operator = arguments["op_name"]
    if operator in ("Conv", "FusedConv"):
        _, inputs, height, width = shapes[1]
        if shapes[0][2:] == [1, 1]:
            return "squeeze-excite 1x1"
        return f"{'depthwise' if inputs == 1 else 'convolution'} {height}x{width}"
    if operator in ("Gemm", "FusedGemm", "MatMul"):
        return "dense"
    return "pooling" if "Pool" in operator or "Reduce" in operator else "other"
