"""Verbs on a finished run: search again, export, report."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwautoml.core import json_form
from hwautoml.core.artifact import sha256_file
from hwautoml.core.duration import require_duration
from hwautoml.core.form import Form
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.objective import Limit, Objective
from hwautoml.core.parity import check_parity, require_parity
from hwautoml.core.progress import OnProgress, Progress, silent
from hwautoml.core.resources import target_folders
from hwautoml.core.space import Architecture
from hwautoml.core.target import Target, load_target
from hwautoml.errors import RunFolderError, UnknownNameError
from hwautoml.objectives import load_objectives
from hwautoml.objectives.base import Definition
from hwautoml.pipeline.connecting import reference_outputs
from hwautoml.pipeline.runs.candidates import (
    export_architecture,
    load_network,
    network_outputs,
    spread,
    weights_path,
)
from hwautoml.pipeline.runs.context import RunContext
from hwautoml.pipeline.runs.judging import ACCURACY, LATENCY, definitions_of, latency_limit
from hwautoml.pipeline.runs.opening import reopened
from hwautoml.pipeline.runs.settings import PRECISIONS, RunSettings
from hwautoml.pipeline.stages.profiling import kept_tables, origin_of
from hwautoml.pipeline.stages.results import REPORT_DATA
from hwautoml.pipeline.stages.searching import FrontRow, front_rows, require_feasible, run_search, shared_evaluator
from hwautoml.pipeline.stages.shipping import RESULT, read_result
from hwautoml.pipeline.tables.finding import choose_runtime, ensure_table
from hwautoml.searchers.problem import SearchProblem
from hwautoml.store.files import read_json, write_json
from hwautoml.store.run_store import RunStore
from hwautoml.store.table_library import TableLibrary

if TYPE_CHECKING:
    from torch import nn

SEARCH_SEC = 7.0
TABLE_SEC = 60.0
SEARCH_EVALUATIONS = 24
FORMATS = ("onnx",)
PARITY_IMAGES, PARITY_TOLERANCE = 200, 1e-4


@dataclass(frozen=True)
class SearchResult:
    """The front of a trained run, fastest first; ``best`` is the most accurate row that meets the limits.

    Accuracies are those of shared weights; ``num_new`` of the ``num_scored`` networks were scored by this search.
    """

    target: str
    runtimes: tuple[str, ...]
    precisions: tuple[str, ...]
    limit_ms: float
    objectives: tuple[Objective, ...]
    latency_origin: str
    best: FrontRow | None
    front: tuple[FrontRow, ...]
    num_scored: int
    num_new: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return json_form.to_json(self)


@dataclass(frozen=True)
class ExportParity:
    """Of the file and the network, on validation images."""

    max_abs: float
    top1_agreement: float
    num_images: int


@dataclass(frozen=True)
class ExportResult:
    """``weights`` says whether they were fine-tuned or come from the supernet."""

    architecture: str
    path: str
    format: str
    sha256: str
    weights: str
    parity: ExportParity

    def to_json(self) -> dict[str, Any]:
        return json_form.to_json(self)


@dataclass(frozen=True)
class ReportResult:
    """The files that were written."""

    html: str
    png: str
    csv: str

    def to_json(self) -> dict[str, Any]:
        return json_form.to_json(self)


def search(
    run: str | Path,
    *,
    target: str | None = None,
    latency_ms: float | None = None,
    objective: Sequence[str] | None = None,
    limit: Sequence[str] | None = None,
    runtime: str = "auto",
    precision: str = "auto",
    budget_sec: float = SEARCH_SEC,
    seed: int | None = None,
    targets_dir: Path | None = None,
    profiles_dir: Path | None = None,
    on_progress: OnProgress = silent,
) -> SearchResult:
    """The front of a trained run for another target or limit: seconds, no retraining.

    Everything the run has scored is reused; what loading leaves of ``budget_sec`` goes into scoring more.
    ``objective``: names of further ones to trade accuracy and latency against. ``limit``: limits of any objective
    (``parameters<=20000``), which is added where it is missing. What the run was asked to keep is kept, too.
    A target that cannot be measured from here gets latencies estimated from its datasheet, and the result says so.
    ``precision``: ``auto`` takes the faster one of each network as far as the run has tables of both; what int8 costs
    in accuracy is not known to a search, whose scores are those of fp32.

    Raises:
        InfeasibleLimitError: nothing in the space is predicted to meet the limits.
        UnknownNameError: there is no such objective.
        RunFolderError: no run there, or it is not trained yet.
    """
    require_duration(budget_sec, "budget_sec")
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)
    limits = [Limit.parse(text) for text in limit or ()]
    load_objectives(objective or (), limits)  # a mistyped name is refused before the images are read
    asked_ms = latency_limit(latency_ms, limits)
    began = time.monotonic()
    with reopened(run, on_progress, targets_dir) as context:
        found = load_target(target or context.settings.target, target_folders(targets_dir))
        limit_ms = context.limit_ms if asked_ms is None else asked_ms
        definitions = _definitions(context.settings, limit_ms, objective or (), limits)
        tables = _tables(context, found, runtime, precision, profiles_dir)
        require_feasible(context, tables, definitions, seed)
        left = max(budget_sec - (time.monotonic() - began), 0.0)
        problem = run_search(context, tables, definitions, SEARCH_EVALUATIONS, left, seed)
        result = _search_result(found, tables, problem, limit_ms, time.monotonic() - began)
        name = _name_of(found, problem.objectives)
        write_json(context.folder / "searches" / f"{name}.json", result.to_json())
        on_progress(Progress("search", 1.0))
        return result


def _definitions(
    settings: RunSettings, limit_ms: float, names: Sequence[str], limits: Sequence[Limit]
) -> tuple[Definition, ...]:
    """The run's own, unless another limit of the same objective is asked for, and further ones."""
    asked = {limit.name for limit in limits}
    kept = [own for own in map(Limit.parse, settings.limits) if own.name not in asked]
    return definitions_of(limit_ms, (*settings.objectives, *names), (*kept, *limits))


def _search_result(
    target: Target, tables: Mapping[str, LatencyTable], problem: SearchProblem, limit_ms: float, seconds: float
) -> SearchResult:
    rows = front_rows(problem, tables, origin_of(tables))
    return SearchResult(
        target=target.name,
        runtimes=tuple(dict.fromkeys(table.runtime for table in tables.values())),
        precisions=tuple(dict.fromkeys(table.precision for table in tables.values())),
        limit_ms=limit_ms,
        objectives=problem.objectives,
        latency_origin=origin_of(tables),
        best=max((row for row in rows if row.meets_limit), key=lambda row: row.accuracy_val, default=None),
        front=rows,
        num_scored=len(problem.evaluated),
        num_new=problem.num_evaluated,
        seconds=seconds,
    )


def _name_of(target: Target, objectives: Sequence[Objective]) -> str:
    """Of a search's file: ``cpu-0.5ms``, and what was asked beyond accuracy and a limit of the latency."""
    parts = [target.name]
    for objective in objectives:
        limit = "" if objective.limit is None else f"-{objective.limit:g}"
        if objective.name == LATENCY:
            parts.append(f"{objective.limit:g}ms")
        elif objective.name != ACCURACY or limit:
            parts.append(objective.name + limit)
    return re.sub(r"[^\w.+-]+", "-", "-".join(parts))


def _tables(
    run: RunContext, target: Target, runtime: str, precision: str, profiles_dir: Path | None
) -> Mapping[str, LatencyTable]:
    """By form: the run's own where they are for that target, else what is found or measured in a minute."""
    if target.name == run.settings.target:
        fitting = {
            form: table
            for form, table in kept_tables(run).items()
            if runtime in ("auto", table.runtime) and precision in ("auto", table.precision)
        }
        if fitting:
            return fitting
    table = ensure_table(
        target,
        Form(choose_runtime(target, runtime), "fp32" if precision == "auto" else precision),
        run.space,
        TableLibrary(profiles_dir),
        budget_sec=TABLE_SEC,
        on_progress=run.on_progress,
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
) -> ExportResult:
    """Write one network of a run as a file: ``best``, or the id of any scored architecture.

    Fine-tuned weights are used where the run has them; otherwise the subnet is cut out of the supernet and
    its BatchNorm statistics are recalibrated (``weights`` in the result says which).

    Raises:
        UnknownNameError: the run has no such architecture.
        ParityError: the file does not compute what the network computes.
    """
    if format not in FORMATS:
        raise UnknownNameError("format", format, FORMATS)
    with reopened(run, on_progress, targets_dir) as context:
        known = {e.architecture.id: e.architecture for e in context.journal.shared_scores(context.space)}
        wanted = _best_id(context) if arch == "best" else arch
        if wanted not in known:
            raise UnknownNameError("architecture", wanted, [*known, "best"][:20])
        architecture = known[wanted]
        path = Path(out) if out is not None else context.folder / "exports" / f"{wanted}.onnx"
        context.report("export", 0.3, f"ONNX of {wanted}")
        is_tuned = weights_path(context, architecture).is_file()
        network = load_network(context, architecture) if is_tuned else _cut_out(context, architecture)
        export_architecture(context, architecture, path, network)
        parity = _exported_parity(context, architecture, network, path)
        on_progress(Progress("export", 1.0))
        weights = "fine-tuned" if is_tuned else "supernet, recalibrated"
        return ExportResult(wanted, str(path), format, sha256_file(path), weights, parity)


def _cut_out(run: RunContext, architecture: Architecture) -> nn.Module:
    return shared_evaluator(run).recalibrated(architecture).eval()


def _exported_parity(run: RunContext, architecture: Architecture, network: nn.Module, path: Path) -> ExportParity:
    """Raises ParityError."""
    split = run.dataset.val
    images = split.raw(spread(split.num_images, PARITY_IMAGES), run.space.resolution(architecture))
    expected = network_outputs(run, network, images)
    report = check_parity(expected, reference_outputs(path, images), task=run.dataset.task, tolerance=PARITY_TOLERANCE)
    require_parity(report, artifact=str(path))
    return ExportParity(report.max_abs, report.agreement, report.num_images)


def report(run: str | Path) -> ReportResult:
    """Write report.html, front.png and candidates.csv of a finished run anew.

    Raises:
        RunFolderError: the run is not finished.
    """
    from hwautoml.reports.report import write_report

    folder = Path(run)
    if not (folder / REPORT_DATA).is_file():
        with RunStore(folder):
            raise RunFolderError(
                f"{folder} is not finished, so there is nothing to report", fix=f"hwautoml run --resume --out {folder}"
            )
    files = write_report(_with_figures(read_json(folder / REPORT_DATA)), folder)
    return ReportResult(str(files.html), str(files.png), str(files.csv))


def _with_figures(data: dict[str, Any]) -> dict[str, Any]:
    """Reports of before there were tasks hold the outcome of a classification in place of what is to be shown."""
    if "confusion" not in data:
        return data
    from hwautoml.tasks.classification import Classification

    task = Classification(tuple(data["dataset"]["classes"]))
    outcome = task.outcome_from_json(data)
    rest = {name: value for name, value in data.items() if name != "confusion"}
    winner = {**data["winner"], "accuracy_test_interval": task.interval(outcome)}
    return {**rest, "winner": winner, "figures": [figure.to_json() for figure in task.figures(outcome)]}


def _best_id(run: RunContext) -> str:
    if (run.folder / RESULT).is_file():
        return read_result(run.folder).architecture.id
    if run.journal.nearest is not None:
        return run.journal.nearest  # the run ended without a winner
    raise RunFolderError(f"{run.folder} has no winner yet", fix=f"hwautoml run --resume --out {run.folder}")
