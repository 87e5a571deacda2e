"""Verbs on a finished run: search again, export, report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from hwautoml.core.artifact import sha256_file
from hwautoml.core.duration import require_duration
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.plan import Plan
from hwautoml.core.progress import OnProgress, Progress, silent
from hwautoml.core.resources import target_folders
from hwautoml.core.space import Architecture
from hwautoml.core.target import Target, load_target
from hwautoml.errors import InvalidValueError, RunFolderError, UnknownNameError
from hwautoml.pipeline.connecting import reference_outputs
from hwautoml.pipeline.runs.job import Job
from hwautoml.pipeline.runs.settings import PRECISIONS, RunSettings
from hwautoml.pipeline.stages.profiling import profile_stage
from hwautoml.pipeline.tables.finding import choose_runtime, ensure_table
from hwautoml.store.files import read_json, write_json
from hwautoml.store.run_store import RunStore

SEARCH_SEC = 7.0
TABLE_SEC = 60.0
SEARCH_EVALUATIONS = 24
FORMATS = ("onnx",)


def search(
    run: str | Path,
    *,
    target: str | None = None,
    latency_ms: float | None = None,
    runtime: str = "auto",
    precision: str = "auto",
    budget_sec: float = SEARCH_SEC,
    seed: int | None = None,
    targets_dir: Path | None = None,
    profiles_dir: Path | None = None,
    on_progress: OnProgress = silent,
) -> dict[str, Any]:
    """The front of a trained run for another target or limit: seconds, no retraining.

    Everything the run has scored is reused; what loading leaves of ``budget_sec`` goes into scoring more.
    A target that cannot be measured from here gets latencies estimated from its datasheet, and the result says so.
    ``precision``: ``auto`` takes the faster one of each network as far as the run has tables of both; what int8 costs
    in accuracy is not known to a search, whose scores are those of fp32.

    Raises:
        InfeasibleLimitError: nothing in the space is predicted to meet the limit.
        RunFolderError: no run there, or it is not trained yet.
    """
    from hwautoml.pipeline.stages.searching import front_rows, latencies_of, run_search
    from hwautoml.pipeline.verbs.running import open_data
    from hwautoml.searchers.problem import require_feasible

    require_duration(budget_sec, "budget_sec")
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)
    began = time.monotonic()
    with RunStore(Path(run)) as store:
        job = _open_job(store, on_progress, targets_dir)
        _require_stage(job, "train", "its supernet is not trained yet")
        found = load_target(target or job.settings.target, target_folders(targets_dir))
        limit = latency_ms if latency_ms is not None else job.settings.latency_ms
        if not 0 < limit < float("inf"):
            raise InvalidValueError(f"latency limit must be a positive number of ms, got {limit}")
        open_data(job)
        tables = _tables(job, found, runtime, precision, profiles_dir)
        generator = np.random.default_rng(job.settings.seed if seed is None else seed)
        require_feasible(job.space, latencies_of(job.space, tables), limit, generator)
        left = max(budget_sec - (time.monotonic() - began), 0.0)
        problem = run_search(job, tables, limit, SEARCH_EVALUATIONS, left, seed)
        origin = "predicted" if all(table.origin == "measured" for table in tables.values()) else "estimated"
        rows = front_rows(problem, tables, origin)
        within = [row for row in rows if row["meets_limit"]]
        result = {
            "target": found.name,
            "runtimes": list(dict.fromkeys(table.runtime for table in tables.values())),
            "precisions": list(dict.fromkeys(table.precision for table in tables.values())),
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


def _tables(
    job: Job, target: Target, runtime: str, precision: str, profiles_dir: Path | None
) -> dict[str, LatencyTable]:
    """By form: the run's own where they are for that target, else what is found or measured in a minute."""
    if target.name == job.settings.target:
        profile_stage(job)
        fitting = {
            form: table
            for form, table in job.tables.items()
            if runtime in ("auto", table.runtime) and precision in ("auto", table.precision)
        }
        if fitting:
            return fitting
    table = ensure_table(
        target,
        choose_runtime(target, runtime),
        job.space,
        precision="fp32" if precision == "auto" else precision,
        budget_sec=TABLE_SEC,
        profiles_dir=profiles_dir,
        on_progress=job.on_progress,
    )
    return {table.form: table}


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
    from hwautoml.pipeline.stages.searching import SHARED_WEIGHTS, Evaluator, scored_weights_path
    from hwautoml.pipeline.stages.shipping import export_architecture
    from hwautoml.pipeline.stages.specialising import load_network
    from hwautoml.pipeline.verbs.running import open_data

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
        parity = _exported_parity(job, architecture, network, path)
        on_progress(Progress("export", 1.0))
        return {
            "architecture": wanted,
            "path": str(path),
            "format": format,
            "sha256": sha256_file(path),
            "weights": "fine-tuned" if is_tuned else "supernet, recalibrated",
            "parity": parity,
        }


def _exported_parity(job: Job, architecture: Architecture, network: Any, path: Path) -> dict[str, Any]:
    """Of the file and the network, on validation images. Raises ParityError."""
    from hwautoml.exporters import check_parity, require_parity
    from hwautoml.pipeline.stages.shipping import spread

    images = job.dataset.val.raw(spread(job.dataset.val.num_images, 200), job.space.resolution(architecture))
    report = check_parity(_probabilities(job, network, images), reference_outputs(path, images), tolerance=1e-4)
    require_parity(report, artifact=str(path))
    return {
        "max_abs": report.max_abs,
        "top1_agreement": report.top1_agreement,
        "num_images": report.num_images,
    }


def report(run: str | Path) -> dict[str, Any]:
    """Write report.html, front.png and candidates.csv of a finished run anew.

    Raises:
        RunFolderError: the run is not finished.
    """
    from hwautoml.pipeline.stages.results import REPORT_DATA
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
