"""Verb ``bench``: files and bundles side by side on a target, interleaved and drift-corrected per runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hwautoml.bundles import read_bundle
from hwautoml.core.measurement import Measurement
from hwautoml.core.progress import OnProgress, Progress, silent
from hwautoml.core.resources import target_folders
from hwautoml.core.target import load_target
from hwautoml.devices.protocol import MeasureFailure, MeasureProtocol
from hwautoml.errors import InvalidValueError, MeasurementError
from hwautoml.pipeline.tables import device_for, usable_runtimes

RUNTIME_OF_SUFFIX = {".onnx": "onnxruntime", ".so": "tvm"}
PROTOCOL = MeasureProtocol(
    warmup_ms=50.0,
    min_rounds=50,
    max_rounds=200,
    target_relative_interval=0.005,
    max_model_sec=6.0,
    max_total_sec=60.0,
    num_singles=1000,
)


@dataclass(frozen=True)
class Benchable:
    """One file to be run by one runtime; ``name`` is what the user called it."""

    name: str
    runtime: str
    path: Path


def bench(
    artifacts: Sequence[str | Path],
    *,
    target: str = "cpu",
    threads: int | None = None,
    seed: int = 0,
    targets_dir: Path | None = None,
    on_progress: OnProgress = silent,
) -> dict[str, Any]:
    """Measure ONNX files, TVM libraries and bundles (each runtime inside) on a target.

    ``seed`` is for the inputs and for the order within each round.

    Raises:
        InvalidValueError: an artifact is neither; RunFolderError: a bundle is damaged.
        MeasurementError: one of them could not be measured.
    """
    found = load_target(target, target_folders(targets_dir))
    if threads is not None:
        found = replace(found, num_threads=threads)
    items = [item for artifact in artifacts for item in _items(Path(artifact))]
    usable = usable_runtimes(found)
    rows, skipped = [], [f"{i.name}: runtime {i.runtime} is not usable here" for i in items if i.runtime not in usable]
    for index, runtime in enumerate(usable):
        chosen = [item for item in items if item.runtime == runtime]
        if chosen:
            on_progress(Progress("bench", index / len(usable), f"{len(chosen)} on {runtime}"))
            with device_for(found, runtime) as device:
                results = device.measure([item.path for item in chosen], chosen[0].path, replace(PROTOCOL, seed=seed))
            rows += [_row(item, result, found.num_threads) for item, result in zip(chosen, results, strict=True)]
    on_progress(Progress("bench", 1.0))
    if not rows:
        raise MeasurementError(
            f"nothing could be measured on {found.name}: {'; '.join(skipped)}", fix="hwautoml doctor"
        )
    return {"target": found.name, "rows": sorted(rows, key=lambda row: row["median_ms"]), "skipped": skipped}


def _items(path: Path) -> list[Benchable]:
    if path.is_dir():
        bundle = read_bundle(path)
        found = [Benchable(str(path), "onnxruntime", bundle.onnx_path)]
        return found if bundle.tvm_library is None else [*found, Benchable(str(path), "tvm", bundle.tvm_library)]
    if path.suffix not in RUNTIME_OF_SUFFIX or not path.is_file():
        reason = "does not exist" if not path.exists() else "is no .onnx or .so file"
        raise InvalidValueError(
            f"{path} {reason}", fix="name .onnx files, .so files made by compile, or bundle folders"
        )
    return [Benchable(str(path), RUNTIME_OF_SUFFIX[path.suffix], path)]


def _row(item: Benchable, result: Measurement | MeasureFailure, num_threads: int) -> dict[str, Any]:
    if isinstance(result, MeasureFailure):
        raise MeasurementError(f"{item.name} could not be measured on {item.runtime}: {result.reason}")
    peak = result.conditions.get("peak_memory_bytes")
    return {
        "artifact": item.name,
        "runtime": item.runtime,
        "threads": num_threads,
        "batch": 1,
        "median_ms": result.median_ms,
        "interval_ms": list(result.interval_ms),
        "p95_ms": result.p95_ms,
        "throughput": 1000.0 / result.median_ms,
        "load_ms": result.conditions.get("load_ms"),
        "peak_memory_mb": None if not isinstance(peak, int | float) else peak / 2**20,
        "size_mb": item.path.stat().st_size / 2**20,
        "num_samples": len(result.samples_ms),
        "noise_floor_relative": result.conditions.get("noise_floor_relative"),
        "conditions": dict(result.conditions),
    }
