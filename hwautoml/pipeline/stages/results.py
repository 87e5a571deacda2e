"""What a finished run says of itself: its ``RunResult``, and the data of its report."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwautoml import __version__
from hwautoml.compilers import reference_runtime
from hwautoml.core import json_form
from hwautoml.core.duration import format_duration
from hwautoml.core.form import Form
from hwautoml.core.latency_predictor import fastest_forms
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.measurement import Measurement
from hwautoml.core.pareto import non_dominated
from hwautoml.core.plan import Plan
from hwautoml.core.run_result import (
    AccuracyFigures,
    CandidateRow,
    DatasetFacts,
    FinalistRow,
    LatencyFigures,
    ParityFigures,
    Quantization,
    RunResult,
    ShippedArchitecture,
    StartChoice,
    TaskFacts,
)
from hwautoml.core.space import Architecture
from hwautoml.pipeline.runs.candidates import Finalist
from hwautoml.pipeline.runs.context import RunContext
from hwautoml.pipeline.runs.outcomes import Checked, Compiled
from hwautoml.pipeline.stages.profiling import origin_of
from hwautoml.store.files import write_json

REPORT_DATA = "report.json"
STAGES = (
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
LITTLE_TRAINING = 0.5  # of the time planned
VERSIONS_OF = ("torch", "onnx", "onnxruntime", "apache-tvm", "numpy")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finished:
    """All that the last stages know: ``winner`` is one of ``finalists`` or of their ``int8_forms``."""

    plan: Plan
    tables: Mapping[str, LatencyTable]
    finalists: Sequence[Finalist]
    int8_forms: Sequence[Finalist]
    winner: Finalist
    quantization: Quantization
    checked: Checked
    compiled: Compiled


def summarise(run: RunContext, finished: Finished) -> RunResult:
    """The object that ``run --json`` prints; every latency says where it comes from."""
    winner = finished.winner
    return RunResult(
        architecture=ShippedArchitecture(
            winner.architecture.id, winner.architecture.space, winner.architecture.as_dict
        ),
        accuracy=AccuracyFigures(winner.accuracy_val, finished.checked.accuracy_test),
        latency_ms=_latency(run, finished),
        target=run.target.name,
        runtime=winner.runtime,
        precision=winner.precision,
        quantization=finished.quantization,
        onnx=str(winner.files[reference_runtime()].resolve()),
        bundle=str((run.folder / "bundle").resolve()),
        report=str((run.folder / "report.html").resolve()),
        parity=_parity(finished.checked),
        seconds=seconds_of(run),
        training={
            "supernet": run.journal.supernet_training(),
            "winner": run.journal.fine_tuning(winner.architecture, run.dataset.train.num_images),
        },
        budget_sec=finished.plan.total,
        dataset=_dataset(run),
        front=_front(run, finished),
        finalists=tuple(_finalist_row(run, finished, finalist) for finalist in finished.finalists),
        tvm=finished.compiled.to_json(),
        conditions=_conditions(winner.best),
        seed=run.settings.seed,
        start=run.journal.start_choice or StartChoice(run.start.name, "as was asked for"),
        task=_task_facts(run, finished.checked),
    )


def warn_of_little_training(run: RunContext, plan: Plan, winner: Finalist) -> None:
    """Where interruptions took the time that the winner's training was to have: what ships is hardly trained."""
    done = run.journal.fine_tuning(winner.architecture, run.dataset.train.num_images)
    if done.seconds < LITTLE_TRAINING * plan.specialise and done.epochs < 1 and not run.start.is_pretrained:
        _log.warning(
            "the network that ships was trained for %s of the %s planned, %.2g epochs: the time went into interrupted "
            "sessions; start anew with a longer --budget",
            format_duration(done.seconds),
            format_duration(plan.specialise),
            done.epochs,
        )


def seconds_of(run: RunContext) -> dict[str, float]:
    """By stage, 0 of those that are not finished; and the run's own in ``total``."""
    return {**{stage: run.journal.seconds(stage) for stage in STAGES}, "total": run.journal.elapsed_sec}


def write_run_report(run: RunContext, finished: Finished, result: RunResult) -> Path:
    """report.html, front.png and candidates.csv, and the data they were made from."""
    from hwautoml.reports.report import write_report

    winner, shown, task = finished.winner, result.to_json(), run.dataset.task
    outcome = task.outcome_from_json(finished.checked.outcome)
    cost = run.space.total_cost(winner.architecture)
    data = {
        "title": f"{run.dataset.name} on {run.target.name}",
        "target": run.target.name,
        "space": run.space.name,
        "metric": task.primary.label,
        "decision": task.decision,
        "dataset": shown["dataset"],
        "limit_ms": run.limit_ms,
        "candidates": [json_form.to_json(row) for row in _candidates(run, finished)],
        "specialised": shown["finalists"],
        "winner": {
            "architecture_id": winner.architecture.id,
            "accuracy_val": winner.accuracy_val,
            "accuracy_test": finished.checked.accuracy_test,
            "accuracy_test_interval": task.interval(outcome),
            "runtime": winner.runtime,
            "latency": json_form.to_json(winner.best.summary),
            "meets_limit": winner.meets(run.limit_ms),
            "precision": winner.precision,
            "quantization": result.quantization.reason,
            "bundle": "bundle",
            "layers": [json_form.to_json(layer) for layer in _layer_times(run, finished)],
            "costs": {
                "parameters": cost.parameters,
                "macs": cost.macs,
                "peak_activation_bytes": cost.peak_activation_bytes,
            },
        },
        "figures": [figure.to_json() for figure in task.figures(outcome)],
        "seconds": shown["seconds"],
        "budget_seconds": finished.plan.total,
        "conditions": shown["conditions"],
    }
    write_json(run.folder / REPORT_DATA, data)
    return write_report(data, run.folder).html


@dataclass(frozen=True)
class _LayerTime:
    key: str
    latency_ms: float | None


def _layer_times(run: RunContext, finished: Finished) -> list[_LayerTime]:
    """Each layer with its time by the table of the winner's form; another form's times would mislead."""
    layers = run.space.layers(finished.winner.architecture)
    table = finished.tables.get(finished.winner.form.name)
    entries = [None if table is None else table.entries.get(table.key(layer)) for layer in layers]
    return [
        _LayerTime(layer.key, None if entry is None else entry.mean_ms)
        for layer, entry in zip(layers, entries, strict=True)
    ]


def _task_facts(run: RunContext, checked: Checked) -> TaskFacts:
    task = run.dataset.task
    metrics = {"test": task.metrics(task.outcome_from_json(checked.outcome))}
    return TaskFacts(task.name, task.primary.name, task.decision, metrics)


def _latency(run: RunContext, finished: Finished) -> LatencyFigures:
    winner = finished.winner
    predicted = run.journal.prediction(winner.architecture, winner.form)
    return LatencyFigures(
        limit=run.limit_ms,
        predicted=predicted.mean_ms,
        predicted_interval=predicted.interval_ms,
        predicted_runtime=predicted.runtime,
        predicted_precision=predicted.precision,
        predicted_origin=_origin(finished),
        measured_median=winner.best.median_ms,
        measured_interval=winner.best.interval_ms,
        p95=winner.best.p95_ms,
        by_runtime={runtime: measured.summary for runtime, measured in winner.measured.items()},
    )


def _origin(finished: Finished) -> str:
    first, table = next(iter(finished.tables.items()))
    return origin_of({first: table})


def _parity(checked: Checked) -> ParityFigures:
    parity = checked.parity
    return ParityFigures(
        onnx_max_abs=parity["onnxruntime"].max_abs if "onnxruntime" in parity else None,
        tvm_max_abs=parity["tvm"].max_abs if "tvm" in parity else None,
        top1_agreement=min(p.top1_agreement for p in parity.values()),
        num_images=min(p.images for p in parity.values()),
        int8=checked.int8,
    )


def _finalist_row(run: RunContext, finished: Finished, finalist: Finalist) -> FinalistRow:
    """One trained network; measured by the forms in which it was."""
    is_winner = finalist.architecture == finished.winner.architecture
    shown = finished.winner if is_winner else finalist
    predicted = run.journal.prediction(shown.architecture, shown.form)
    forms = [finalist, *(f for f in finished.int8_forms if f.architecture == finalist.architecture)]
    return FinalistRow(
        architecture_id=finalist.architecture.id,
        accuracy_val=finalist.accuracy_val,
        accuracy_test=None,
        predicted_ms=predicted.mean_ms,
        predicted_interval=predicted.interval_ms,
        predicted_form=predicted.form.name,
        measured={
            Form(runtime, form.precision).name: measured.summary
            for form in forms
            for runtime, measured in form.measured.items()
        },
        meets_limit=any(form.meets(run.limit_ms) for form in forms),
        chosen=is_winner,
    )


def _candidates(run: RunContext, finished: Finished) -> list[CandidateRow]:
    scored = run.journal.shared_scores(run.space)
    if not scored:
        return []
    _, means, deviations = fastest_forms(run.space, finished.tables, [e.architecture for e in scored])
    scores = [run.dataset.task.score(e.outcome) for e in scored]
    on_front = non_dominated(np.column_stack([means, [-score for score in scores]]))
    chosen: Architecture = finished.winner.architecture
    return [
        CandidateRow(
            architecture_id=e.architecture.id,
            values=e.architecture.as_dict,
            accuracy_val=score,
            latency_ms=float(ms),
            latency_std_ms=float(std),
            origin=_origin(finished),
            on_front=bool(best),
            chosen=e.architecture == chosen,
        )
        for e, score, ms, std, best in zip(scored, scores, means, deviations, on_front, strict=True)
    ]


def _front(run: RunContext, finished: Finished) -> tuple[CandidateRow, ...]:
    rows = [row for row in _candidates(run, finished) if row.on_front]
    return tuple(sorted(rows, key=lambda row: row.latency_ms))


def _dataset(run: RunContext) -> DatasetFacts:
    dataset = run.dataset
    return DatasetFacts(
        dataset.name,
        dataset.task.outputs,
        {split: getattr(dataset, split).num_images for split in ("train", "val", "test")},
        len(dataset.skipped),
        tuple(f"{s.path}: {s.reason}" for s in dataset.skipped[:20]),
        dataset.task.summary,
    )


def _conditions(measurement: Measurement) -> Mapping[str, object]:
    versions = {name: importlib.metadata.version(name) for name in VERSIONS_OF}
    return {**measurement.conditions, "versions": {"hwautoml": __version__, **versions}}
