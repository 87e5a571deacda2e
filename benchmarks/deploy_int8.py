"""Networks in float32 and in int8 (QDQ form), on ONNX Runtime and through our TVM schedules: interleaved."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.deploy_schedules import geometric_mean, host, interleaved_ms, networks, random_input
from hwautoml.compilers import load_backend
from hwautoml.devices.machine import has_int8_dot_product, machine_conditions
from hwautoml.exporters import quantize_onnx

_CALIBRATION = 8  # random inputs: latency does not depend on the ranges they give


def int8(arguments: argparse.Namespace) -> dict[str, Any]:
    """Medians, and medians of ratios within rounds; TVM by the fixed rule."""
    os.environ["TVM_NUM_THREADS"] = str(arguments.threads)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for network, path in networks(Path(name), arguments.batch, tuple(filter(None, arguments.only.split(",")))):
            rows.append({"network": network} | _compare(path, arguments.threads, arguments.rounds))
            print(rows[-1], flush=True)
    columns = ("tvm_int8/ort_int8", "tvm_int8/tvm_fp32", "tvm_int8/ort_fp32", "ort_int8/ort_fp32")
    return {
        "conditions": {
            **machine_conditions(),
            "threads": arguments.threads,
            "batch": arguments.batch,
            "int8_dot_product": has_int8_dot_product(),
            "versions": {name: load_backend(name).version() for name in ("tvm", "onnxruntime")},
        },
        "rows": rows,
        "summary": {f"{column}, geometric mean": geometric_mean([row[column] for row in rows]) for column in columns}
        | {"tvm_int8/ort_int8, worst": max(row["tvm_int8/ort_int8"] for row in rows)},
    }


def _compare(path: Path, threads: int, rounds: int) -> dict[str, float]:
    tvm, reference = load_backend("tvm"), load_backend("onnxruntime")
    files = {"fp32": path, "int8": path.with_name(f"{path.stem}-int8.onnx")}
    x = random_input(reference.open_model(path))
    many = np.concatenate([_like(x, seed) for seed in range(_CALIBRATION)])
    quantize_onnx(path, files["int8"], many, reduce_range=not has_int8_dot_product())
    models = {}
    for precision, file in files.items():
        models[f"ort_{precision}"] = reference.open_model(file, num_threads=threads)
        compiled = tvm.compile(file, path.parent / file.stem, host(threads))
        models[f"tvm_{precision}"] = tvm.open_model(compiled.path, num_threads=threads)
    outputs = {name: model(x) for name, model in models.items()}
    times = interleaved_ms({name: model.bind(x) for name, model in models.items()}, rounds, threads)
    pairs = [("tvm_int8", "ort_int8"), ("tvm_int8", "tvm_fp32"), ("tvm_int8", "ort_fp32"), ("ort_int8", "ort_fp32")]
    difference = np.abs(outputs["tvm_int8"] - outputs["ort_int8"]).max() / np.abs(outputs["ort_int8"]).max()
    return {
        **{f"{name}_ms": float(np.median(samples)) for name, samples in times.items()},
        **{f"{a}/{b}": float(np.median(times[a] / times[b])) for a, b in pairs},
        "difference": float(difference),
        "compile_sec": compiled.compile_sec,
    }


def _like(x: np.ndarray, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    if x.dtype == np.uint8:
        return generator.integers(0, 256, x.shape, dtype=np.uint8)
    return generator.standard_normal(x.shape).astype(x.dtype)
