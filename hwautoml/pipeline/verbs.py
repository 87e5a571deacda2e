"""Verbs on a finished run or on files: search again, export, compile, bench, report."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hwautoml.compilers import load_backend
from hwautoml.core.artifact import sha256_file
from hwautoml.core.progress import OnProgress, Progress, silent
from hwautoml.core.resources import target_folders
from hwautoml.core.target import load_target
from hwautoml.errors import CompileError, InvalidValueError, ParityError, RunFolderError, UnknownNameError
from hwautoml.pipeline.budget import Plan
from hwautoml.pipeline.connecting import device_for, require_reachable
from hwautoml.pipeline.job import Job
from hwautoml.pipeline.settings import RunSettings
from hwautoml.pipeline.tables import (
    choose_runtime,
    ensure_table,
    profile_stage,
    records_path,
    unavailable_reason,
)
from hwautoml.store.files import read_json, write_json
from hwautoml.store.run_store import RunStore

SEARCH_SEC = 7.0
SEARCH_EVALUATIONS = 24
COMPILE_PARITY_TOLERANCE = 1e-3  # relative to the outputs' scale, on random inputs
FORMATS = ("onnx",)


def search(
    run: str | Path,
    *,
    target: str | None = None,
    latency_ms: float | None = None,
    runtime: str = "auto",
    budget_sec: float = SEARCH_SEC,
    seed: int | None = None,
    targets_dir: Path | None = None,
    profiles_dir: Path | None = None,
    on_progress: OnProgress = silent,
) -> dict[str, Any]:
    """The front of a trained run for another target or limit: seconds, no retraining.

    Everything the run has scored is reused; what loading leaves of ``budget_sec`` goes into scoring more.
    A target that cannot be measured from here gets latencies estimated from its datasheet, and the result says so.

    Raises:
        InfeasibleLimitError: nothing in the space is predicted to meet the limit.
        RunFolderError: no run there, or it is not trained yet.
    """
    from hwautoml.pipeline.running import open_data
    from hwautoml.pipeline.searching import front_rows, latencies_of, run_search
    from hwautoml.searchers.problem import require_feasible

    began = time.monotonic()
    with RunStore(Path(run)) as store:
        job = _open_job(store, on_progress, targets_dir)
        _require_stage(job, "train", "its supernet is not trained yet")
        found = load_target(target or job.settings.target, target_folders(targets_dir))
        limit = latency_ms if latency_ms is not None else job.settings.latency_ms
        if not 0 < limit < float("inf"):
            raise InvalidValueError(f"latency limit must be a positive number of ms, got {limit}")
        open_data(job)
        if found.name == job.settings.target:
            profile_stage(job)
        if found.name == job.settings.target and (runtime == "auto" or runtime in job.tables):
            tables = job.tables if runtime == "auto" else {runtime: job.tables[runtime]}
        else:
            chosen = choose_runtime(found, runtime)
            tables = {chosen: ensure_table(
                found, chosen, job.space, budget_sec=60.0, profiles_dir=profiles_dir, on_progress=on_progress
            )}  # fmt: skip
        generator = np.random.default_rng(job.settings.seed if seed is None else seed)
        require_feasible(job.space, latencies_of(job.space, tables), limit, generator)
        left = max(budget_sec - (time.monotonic() - began), 0.0)
        problem = run_search(job, tables, limit, SEARCH_EVALUATIONS, left, seed)
        origin = "predicted" if all(table.origin == "measured" for table in tables.values()) else "estimated"
        rows = front_rows(problem, origin)
        within = [row for row in rows if row["meets_limit"]]
        result = {
            "target": found.name,
            "runtimes": list(tables),
            "limit_ms": limit,
            "latency_origin": origin,
            "best": within[-1] if within else None,
            "front": rows,
            "num_scored": len(problem.scores),
            "num_new": problem.num_evaluated,
            "seconds": time.monotonic() - began,
        }
        write_json(job.folder / "searches" / f"{found.name}-{limit:g}ms.json", result)
        on_progress(Progress("search", 1.0))
        return result


def export(
    run: str | Path,
    *,
    arch: str = "best",
    format: str = "onnx",
    out: str | Path | None = None,
    targets_dir: Path | None = None,
    on_progress: OnProgress = silent,
) -> dict[str, Any]:
    """Write one network of a run as a file: ``best``, or the id of any scored architecture.

    Fine-tuned weights are used where the run has them; otherwise the subnet is cut out of the supernet and
    its BatchNorm statistics are recalibrated (``weights`` in the result says which).

    Raises:
        UnknownNameError: the run has no such architecture.
        ParityError: the file does not compute what the network computes.
    """
    from hwautoml.exporters import check_parity, require_parity
    from hwautoml.pipeline.running import open_data
    from hwautoml.pipeline.searching import SHARED_WEIGHTS, Evaluator, scored_weights_path
    from hwautoml.pipeline.shipping import export_architecture, spread
    from hwautoml.pipeline.specialising import load_network

    if format not in FORMATS:
        raise UnknownNameError("format", format, FORMATS)
    with RunStore(Path(run)) as store:
        job = _open_job(store, on_progress, targets_dir)
        _require_stage(job, "train", "its supernet is not trained yet")
        open_data(job)
        known = {
            e.architecture.id: e.architecture for e in store.evaluations(job.space, weights=SHARED_WEIGHTS, split="val")
        }
        wanted = _best_id(job) if arch == "best" else arch
        if wanted not in known:
            raise UnknownNameError("architecture", wanted, [*known, "best"][:20])
        architecture = known[wanted]
        path = Path(out) if out is not None else job.folder / "exports" / f"{wanted}.onnx"
        is_tuned = scored_weights_path(job.folder, wanted).is_file()
        job.report("export", 0.3, f"ONNX of {wanted}")
        network = load_network(job, architecture) if is_tuned else Evaluator(job).recalibrated(architecture).eval()
        export_architecture(job, architecture, path, network)
        images = job.dataset.val.raw(spread(job.dataset.val.num_images, 200), job.space.resolution(architecture))
        report = check_parity(
            _probabilities(job, network, images), _run_here("onnxruntime", path, images), tolerance=1e-4
        )
        require_parity(report, artifact=str(path))
        on_progress(Progress("export", 1.0))
        return {
            "architecture": wanted,
            "path": str(path),
            "format": format,
            "sha256": sha256_file(path),
            "weights": "fine-tuned" if is_tuned else "supernet, recalibrated",
            "parity": {
                "max_abs": report.max_abs,
                "top1_agreement": report.top1_agreement,
                "num_images": report.num_images,
            },
        }


def compile(
    model: str | Path,
    *,
    target: str = "cpu",
    runtime: str = "tvm",
    out: str | Path | None = None,
    tune_sec: float = 0.0,
    device: str | None = None,
    tracker: str | None = None,
    key: str | None = None,
    seed: int = 0,
    targets_dir: Path | None = None,
    profiles_dir: Path | None = None,
    on_progress: OnProgress = silent,
) -> dict[str, Any]:
    """Compile any ONNX file for a target, and check it against ONNX Runtime on random inputs.

    A library for another machine is checked on the board that ``device``, or ``tracker`` and ``key``, name;
    without one ``parity`` in the result says why it was not checked.

    Raises:
        CompileError: the file cannot be read or compiled; the message names the operator or the file.
        ParityError: the compiled model gives other results than ONNX Runtime.
    """
    path = Path(model)
    if not path.is_file():
        raise CompileError(f"{path} does not exist", fix="name an .onnx file, e.g. runs/demo/bundle/model.onnx")
    found = load_target(target, target_folders(targets_dir))
    board = {"device": device, "tracker": tracker, "key": key}
    if any(board.values()):
        require_reachable(found, **board)
    chosen = choose_runtime(found, runtime)
    folder = Path(out) if out is not None else path.with_suffix("").with_name(f"{path.stem}-{found.name}-{chosen}")

    def listen(done: int, total: int, text: str) -> None:
        on_progress(Progress("compile", min(done / max(total, 1), 0.999), text))

    compiled = load_backend(chosen).compile_model(
        path,
        folder,
        tvm_target=found.tvm,
        num_threads=found.num_threads,
        tune_budget_sec=tune_sec,
        records_path=records_path(found, profiles_dir),
        on_progress=listen,
        seed=seed,
    )
    reason = unavailable_reason(found, device=device, tracker=tracker)
    parity = None
    if reason is None:
        on_progress(Progress("compile", 0.999, f"checking it on {device or tracker or 'this machine'}"))
        with device_for(found, chosen, **board) as place:
            parity = _random_parity(chosen, path, compiled.path, seed, place.run_model)
    on_progress(Progress("compile", 1.0))
    return {
        "path": str(compiled.path),
        "runtime": chosen,
        "target": found.name,
        "functions": compiled.functions,
        "tuned": compiled.tuned,
        "fallbacks": list(compiled.fallbacks),
        "sha256": sha256_file(compiled.path),
        "seconds": {"compile": compiled.compile_sec, "tune": compiled.tune_sec},
        "device_code": compiled.device_code,
        "parity": parity if parity is not None else f"not checked: {reason}",
    }


def report(run: str | Path) -> dict[str, Any]:
    """Write report.html, front.png and candidates.csv of a finished run anew.

    Raises:
        RunFolderError: the run is not finished.
    """
    from hwautoml.pipeline.results import REPORT_DATA
    from hwautoml.reports.report import write_report

    folder = Path(run)
    if not (folder / REPORT_DATA).is_file():
        with RunStore(folder):
            raise RunFolderError(
                f"{folder} is not finished, so there is nothing to report", fix=f"hwautoml run --resume --out {folder}"
            )
    files = write_report(read_json(folder / REPORT_DATA), folder)
    return {"html": str(files.html), "png": str(files.png), "csv": str(files.csv)}


def _open_job(store: RunStore, on_progress: OnProgress, targets_dir: Path | None) -> Job:
    stored = store.setting("settings")
    if stored is None:
        raise RunFolderError(f"{store.folder} holds no started run", fix="hwautoml run DATA --out FOLDER")
    settings = RunSettings.from_json(stored)
    job = Job(store, settings, load_target(settings.target, target_folders(targets_dir)), on_progress)
    plan = store.setting("plan")
    if plan is not None:
        job.plan = Plan(**plan)
    return job


def _require_stage(job: Job, name: str, reason: str) -> None:
    if job.store.stage(name) is None:
        raise RunFolderError(f"{job.folder}: {reason}", fix=f"hwautoml run --resume --out {job.folder}")


def _best_id(job: Job) -> str:
    path, nearest = job.folder / "result.json", job.store.setting("nearest")
    if not path.is_file() and nearest is not None:
        return str(nearest["id"])  # the run ended without a winner
    if not path.is_file():
        raise RunFolderError(f"{job.folder} has no winner yet", fix=f"hwautoml run --resume --out {job.folder}")
    return str(read_json(path)["architecture"]["id"])


def _probabilities(job: Job, network: Any, images: np.ndarray) -> np.ndarray:
    import torch

    from hwautoml.exporters import Deployable

    module = Deployable(network.cpu(), job.dataset.mean, job.dataset.std).eval()
    with torch.no_grad():
        return np.asarray(module(torch.from_numpy(images)).numpy())


def _run_here(runtime: str, path: Path, images: np.ndarray) -> np.ndarray:
    from hwautoml.devices.local import LocalDevice

    with LocalDevice(runtime) as device:
        return device.run_model(path, images)


def _random_parity(
    runtime: str, onnx_path: Path, compiled: Path, seed: int, run_model: Callable[[Path, np.ndarray], np.ndarray]
) -> dict[str, Any]:
    """Largest difference from ONNX Runtime relative to the outputs' scale, over 4 random inputs."""
    if runtime == "onnxruntime":
        return {"max_relative": 0.0, "note": "the compiled model is the ONNX file itself"}
    inputs = _random_inputs(onnx_path, 4, seed)
    expected, got = _run_here("onnxruntime", onnx_path, inputs), run_model(compiled, inputs)
    scale = float(np.abs(expected).max()) or 1.0
    worst = float(np.abs(expected - got).max()) / scale
    if not worst <= COMPILE_PARITY_TOLERANCE:
        raise ParityError(
            f"{compiled} differs from ONNX Runtime by {worst:.3g} of the outputs' scale "
            f"(tolerance {COMPILE_PARITY_TOLERANCE:g})",
            fix="use --runtime onnxruntime for this model",
        )
    return {"max_relative": worst, "tolerance": COMPILE_PARITY_TOLERANCE, "num_inputs": len(inputs)}


def _random_inputs(onnx_path: Path, number: int, seed: int) -> np.ndarray:
    opened = load_backend("onnxruntime").open_model(onnx_path)
    shape = tuple(extent if extent > 0 else 1 for extent in opened.input_shape)
    generator = np.random.default_rng(seed)
    if opened.input_dtype == "uint8":
        return generator.integers(0, 256, (number * shape[0], *shape[1:]), dtype=np.uint8)
    return generator.standard_normal((number * shape[0], *shape[1:])).astype(opened.input_dtype)
