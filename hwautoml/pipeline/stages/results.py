"""What a finished run says of itself: the JSON result, and the data of its report."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwautoml import __version__
from hwautoml.core.form import Form
from hwautoml.core.measurement import Measurement
from hwautoml.pipeline.runs.job import Job
from hwautoml.pipeline.runs.outcomes import scores_of, test_outcome
from hwautoml.pipeline.stages.specialising import PHASES
from hwautoml.store.files import write_json

if TYPE_CHECKING:
    from hwautoml.pipeline.stages.shipping import Finalist

REPORT_DATA = "report.json"
STAGE_SECONDS = (
    "data",
    "profile",
    "train",
    "search",
    "specialise",
    "export",
    "compile",
    "measure",
    "quantize",
    "check",
    "ship",
)


def summarise(
    job: Job,
    candidates: list[Finalist],
    int8_forms: Sequence[Finalist],
    winner: Finalist,
    checked: dict[str, Any],
    quantization: dict[str, Any],
) -> dict[str, Any]:
    """The object that ``run --json`` prints; every latency says where it comes from."""
    best, predicted = winner.best, _prediction(job, winner)
    parity = {runtime: checked[runtime] for runtime in ("onnxruntime", "tvm") if runtime in checked}
    task = job.dataset.task
    return {
        "architecture": {
            "id": winner.architecture.id,
            "space": winner.architecture.space,
            "values": winner.architecture.as_dict,
        },
        "task": {**task.to_json(), "metrics": {"test": task.metrics(test_outcome(task, checked))}},
        "accuracy": {"val": winner.accuracy_val, "test": checked["accuracy_test"]},
        "latency_ms": {
            "limit": job.settings.latency_ms,
            "predicted": predicted["mean_ms"],
            "predicted_interval": predicted["interval_ms"],
            "predicted_runtime": predicted["runtime"],
            "predicted_precision": predicted["precision"],
            "predicted_origin": _origin(job),
            "measured_median": best.median_ms,
            "measured_interval": list(best.interval_ms),
            "p95": best.p95_ms,
            "by_runtime": {runtime: _measured(m) for runtime, m in winner.measured.items()},
        },
        "target": job.target.name,
        "runtime": winner.runtime,
        "precision": winner.precision,
        "quantization": quantization,
        "onnx": str(winner.files["onnxruntime"].resolve()),
        "bundle": str((job.folder / "bundle").resolve()),
        "report": str((job.folder / "report.html").resolve()),
        "parity": {
            "onnx_max_abs": parity["onnxruntime"]["max_abs"] if "onnxruntime" in parity else None,
            "tvm_max_abs": parity["tvm"]["max_abs"] if "tvm" in parity else None,
            "top1_agreement": min(p["top1_agreement"] for p in parity.values()),
            "num_images": min(p["images"] for p in parity.values()),
            "int8": checked.get("int8"),
        },
        "seconds": _seconds(job),
        "training": _training(job, winner),
        "budget_sec": job.plan.total,
        "dataset": _dataset(job),
        "front": _front(job, winner),
        "finalists": [
            _finalist_row(job, c, [f for f in int8_forms if f.architecture == c.architecture], winner)
            for c in candidates
        ],
        "tvm": _tvm(job),
        "conditions": _conditions(job, best),
        "seed": job.settings.seed,
    }


def write_run_report(
    job: Job, candidates: list[Finalist], winner: Finalist, checked: dict[str, Any], result: dict[str, Any]
) -> Path:
    """report.html, front.png and candidates.csv, and the data they were made from."""
    from hwautoml.reports.report import write_report

    task, outcome = job.dataset.task, test_outcome(job.dataset.task, checked)
    cost = job.space.total_cost(winner.architecture)
    layers = job.space.layers(winner.architecture)
    table = job.tables.get(winner.form)  # another form's times would mislead
    alone = [None if table is None else table.entries.get(table.key(layer)) for layer in layers]
    data = {
        "title": f"{job.dataset.name} on {job.target.name}",
        "target": job.target.name,
        "space": job.space.name,
        "metric": task.primary.label,
        "decision": task.decision,
        "dataset": result["dataset"],
        "limit_ms": job.settings.latency_ms,
        "candidates": _candidates(job, winner),
        "specialised": result["finalists"],
        "winner": {
            "architecture_id": winner.architecture.id,
            "accuracy_val": winner.accuracy_val,
            "accuracy_test": checked["accuracy_test"],
            "accuracy_test_interval": task.interval(outcome),
            "runtime": winner.runtime,
            "latency": _measured(winner.best),
            "meets_limit": winner.meets(job.settings.latency_ms),
            "precision": winner.precision,
            "quantization": result["quantization"]["reason"],
            "bundle": "bundle",
            "layers": [
                {"key": layer.key, "latency_ms": None if entry is None else entry.mean_ms}
                for layer, entry in zip(layers, alone, strict=True)
            ],
            "costs": {
                "parameters": cost.parameters,
                "macs": cost.macs,
                "peak_activation_bytes": cost.peak_activation_bytes,
            },
        },
        "figures": [figure.to_json() for figure in task.figures(outcome)],
        "seconds": result["seconds"],
        "budget_seconds": job.plan.total,
        "conditions": result["conditions"],
    }
    write_json(job.folder / REPORT_DATA, data)
    return write_report(data, job.folder).html


def _prediction(job: Job, finalist: Finalist) -> dict[str, Any]:
    """Runtime, precision, mean and interval in ms as predicted before anything of this architecture was measured.

    Of the form it has now, where that was predicted; else of the one in which it was chosen.
    """
    kept, key = job.store.setting("predictions"), finalist.architecture.id
    return {"precision": "fp32", **kept.get(f"{key} {finalist.form}", kept[key])}


def _training(job: Job, winner: Finalist) -> dict[str, Any]:
    """Seconds, images and epochs of the supernet, and of the winner alone (all its rounds)."""
    supernet = job.store.stage("train") or {}
    rounds = [job.store.stage(f"fine-tune.{phase}.{winner.architecture.id}") or {} for phase in PHASES]
    parts = {"supernet": [supernet], "winner": rounds}
    result = {}
    for name, stages in parts.items():
        seconds, images = (float(sum(stage.get(key, 0) for stage in stages)) for key in ("seconds", "images"))
        epochs = images / job.dataset.train.num_images
        result[name] = {"seconds": seconds, "images": images, "epochs": epochs}
    return result


def _origin(job: Job) -> str:
    return "predicted" if job.table.origin == "measured" else "estimated"


def _measured(measurement: Measurement) -> dict[str, Any]:
    return {
        "median_ms": measurement.median_ms,
        "interval_ms": list(measurement.interval_ms),
        "p95_ms": measurement.p95_ms,
    }


def _finalist_row(job: Job, finalist: Finalist, int8: Sequence[Finalist], winner: Finalist) -> dict[str, Any]:
    """One trained network; measured by the forms in which it was."""
    is_winner, limit = finalist.architecture == winner.architecture, job.settings.latency_ms
    predicted = _prediction(job, winner if is_winner else finalist)
    return {
        "architecture_id": finalist.architecture.id,
        "accuracy_val": finalist.accuracy_val,
        "accuracy_test": None,
        "predicted_ms": predicted["mean_ms"],
        "predicted_interval": predicted["interval_ms"],
        "predicted_form": Form(predicted["runtime"], predicted["precision"]).name,
        "measured": {
            Form(runtime, form.precision).name: _measured(found)
            for form in (finalist, *int8)
            for runtime, found in form.measured.items()
        },
        "meets_limit": any(form.meets(limit) for form in (finalist, *int8)),
        "chosen": is_winner,
    }


def _candidates(job: Job, winner: Finalist) -> list[dict[str, Any]]:
    from hwautoml.pipeline.stages.searching import SHARED_WEIGHTS, fastest_forms

    scored = job.store.evaluations(job.space, weights=SHARED_WEIGHTS, split="val")
    if not scored:
        return []
    _, means, deviations = fastest_forms(job.space, job.tables, [e.architecture for e in scored])
    accuracies = scores_of(job.dataset.task, scored)
    on_front = _on_front(list(accuracies.values()), list(means))
    return [
        {
            "architecture_id": e.architecture.id,
            "values": e.architecture.as_dict,
            "accuracy_val": accuracies[e.architecture],
            "latency_ms": float(ms),
            "latency_std_ms": float(std),
            "origin": _origin(job),
            "on_front": best,
            "chosen": e.architecture == winner.architecture,
        }
        for e, ms, std, best in zip(scored, means, deviations, on_front, strict=True)
    ]


def _on_front(accuracies: list[float], latencies: list[float]) -> list[bool]:
    import numpy as np

    from hwautoml.core.pareto import non_dominated

    return [bool(b) for b in non_dominated(np.column_stack([latencies, [-a for a in accuracies]]))]


def _front(job: Job, winner: Finalist) -> list[dict[str, Any]]:
    rows = [row for row in _candidates(job, winner) if row["on_front"]]
    return sorted(rows, key=lambda row: row["latency_ms"])


def _dataset(job: Job) -> dict[str, Any]:
    dataset = job.dataset
    return {
        "name": dataset.name,
        "classes": list(dataset.task.outputs),
        "labels": dataset.task.summary,
        "counts": {split: getattr(dataset, split).num_images for split in ("train", "val", "test")},
        "num_skipped": len(dataset.skipped),
        "skipped": [f"{s.path}: {s.reason}" for s in dataset.skipped[:20]],
    }


def _seconds(job: Job) -> dict[str, float]:
    seconds = {}
    for name in STAGE_SECONDS:
        stage = job.store.stage(name)
        seconds[name] = float(stage["seconds"]) if stage is not None else 0.0
    return {**seconds, "total": job.elapsed_sec}


def _tvm(job: Job) -> dict[str, Any]:
    return {key: value for key, value in (job.store.stage("compile") or {}).items() if key != "seconds"}


def _conditions(job: Job, measurement: Measurement) -> dict[str, Any]:
    versions = {
        name: importlib.metadata.version(name) for name in ("torch", "onnx", "onnxruntime", "apache-tvm", "numpy")
    }
    return {**measurement.conditions, "versions": {"hwautoml": __version__, **versions}}
