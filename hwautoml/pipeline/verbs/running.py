"""Verb ``run``: labelled images and a target in; a trained, exported, compiled, measured, shippable model out."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hwautoml.compilers import board_runtimes, shipping_runtimes
from hwautoml.compilers._toolchains import architecture_of, require_compiler
from hwautoml.core.board import Board
from hwautoml.core.objective import Limit
from hwautoml.core.plan import (
    Plan,
    default_budget_sec,
    default_pretrained_budget_sec,
    make_plan,
    make_pretrained_plan,
    profile_cap_sec,
)
from hwautoml.core.progress import OnProgress, silent
from hwautoml.core.resources import target_folders
from hwautoml.core.run_result import RunResult, StartChoice
from hwautoml.core.start_point import SCRATCH
from hwautoml.core.target import Target, load_target
from hwautoml.errors import InfeasibleLimitError, InvalidValueError, RunFolderError
from hwautoml.pipeline.connecting import device_for, require_reachable, require_real
from hwautoml.pipeline.runs.candidates import measured_finalists
from hwautoml.pipeline.runs.context import RunContext
from hwautoml.pipeline.runs.journal import Journal
from hwautoml.pipeline.runs.judging import LATENCY, latency_limit
from hwautoml.pipeline.runs.opening import opened
from hwautoml.pipeline.runs.outcomes import Loaded, Shipped
from hwautoml.pipeline.runs.resources import MAX_TIMING_SEC, Resources, resources_of, time_training
from hwautoml.pipeline.runs.settings import RunSettings, require_same
from hwautoml.pipeline.runs.starting import AUTO, require_start
from hwautoml.pipeline.stages.building import compile_stage, compiling_runtimes, export_stage, measure_stage
from hwautoml.pipeline.stages.checking import check_stage
from hwautoml.pipeline.stages.profiling import kept_tables, profile_stage
from hwautoml.pipeline.stages.quantizing import choose_form, quantize_stage, reserve_sec
from hwautoml.pipeline.stages.results import Finished, warn_of_little_training
from hwautoml.pipeline.stages.searching import require_feasible, search_stage
from hwautoml.pipeline.stages.shipping import read_result, ship_stage
from hwautoml.pipeline.stages.specialising import specialise_stage
from hwautoml.pipeline.stages.training import train_supernet
from hwautoml.pipeline.tables.finding import choose_runtime
from hwautoml.searchers import load_searcher
from hwautoml.store.run_store import LOCK, RunStore, clear_run

_log = logging.getLogger(__name__)


def run(
    source: str | None = None,
    *,
    target: str | None = None,
    latency_ms: float | None = None,
    objective: Sequence[str] | None = None,
    limit: Sequence[str] | None = None,
    out: str | Path | None = None,
    budget_sec: float | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    fit: str | None = None,
    label_pattern: str | None = None,
    group: str | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    runtime: str | None = None,
    precision: str | None = None,
    searcher: str | None = None,
    task: str | None = None,
    space: str | None = None,
    start: str | None = None,
    device: str | None = None,
    tracker: str | None = None,
    key: str | None = None,
    seed: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    targets_dir: Path | None = None,
    profiles_dir: Path | None = None,
    on_progress: OnProgress = silent,
) -> RunResult:
    """Search, train, export, compile, measure and bundle the best network for a target and a limit.

    ``source``: ``digits``, a folder of class folders, a ``.zip`` of one, a table of labels, or an ``.npz``;
    ``image_size`` to ``label_column`` say how it is read (``load_dataset``). ``latency_ms`` is for one image on the
    target, and is met by measurement. ``objective``: names of further ones to trade it and the accuracy against
    while searching; ``limit``: limits of any that is known before training (``parameters<=20000``),
    or of the latency. ``budget_sec`` is wall-clock time for everything;
    by default it grows with the data. ``precision``: ``auto`` (the default) ships int8 where it was measured to be
    faster and at most half a point less accurate, ``fp32`` does not try it, ``int8`` ships nothing else.
    ``task`` says what labels are and what is predicted: ``classification``, or one that an installed package brings.
    ``start`` names where weights come from (``hwautoml starts`` lists them): by default, ``auto``, photographs begin
    with a pretrained network and other images from scratch. ``space`` names an ``ElasticSpace``, of this package
    (``mobile``) or of another one.
    ``device``, or ``tracker`` and ``key``, name the board on which latencies are measured: TVM libraries, compiled
    here. They are not stored, because addresses change.
    Interrupted, it goes on with ``resume=True`` and the same ``out``.

    Returns:
        What ``result.json`` in the run folder holds; see docs/run.md. ``to_json()`` is that file's content.

    Raises:
        HwAutoMLError: the family of docs/exit_codes.md.
    """
    limits = [Limit.parse(text) for text in limit or ()]
    given = {
        "source": source,
        "target": target,
        "latency_ms": latency_limit(latency_ms, limits),
        "objectives": None if objective is None else tuple(objective),
        "limits": None if limit is None else tuple(str(asked) for asked in limits if asked.name != LATENCY),
        "budget_sec": budget_sec,
        "image_size": image_size,
        "channels": channels,
        "fit": fit,
        "label_pattern": label_pattern,
        "group": group,
        "path_column": path_column,
        "label_column": label_column,
        "runtime": runtime,
        "precision": precision,
        "searcher": searcher,
        "task": task,
        "space": space,
        "start": start,
        "seed": seed,
    }
    board = Board(device, tracker, key)
    folder = _run_folder(out, source)
    if source is not None and source != "digits":
        given["source"] = str(Path(source).expanduser().resolve())  # resuming works from any folder
    if not resume and (overwrite or not (folder / "journal.sqlite").is_file()):
        settings = _new_settings(given)  # checked before a folder is made or cleared
        _check_images(settings)
        _checked_target(settings, targets_dir, board)
    with _open_journal(folder, given, resume=resume, overwrite=overwrite) as journal:
        if journal.outcome(Shipped) is not None:
            try:
                return read_result(folder)
            except (RunFolderError, InvalidValueError) as error:
                _log.warning("%s; it is made again", error.message)
                journal.forget(Shipped)
        settings = journal.settings or _new_settings(given)
        found = _checked_target(settings, targets_dir, board)
        _require_same_place(journal, board)
        try:
            while True:
                with opened(journal, settings, found, board, on_progress, profiles_dir) as context:
                    try:
                        return _run_stages(context)
                    except InfeasibleLimitError as error:
                        _from_scratch_instead(context, error)  # raises where there is no other way
        finally:
            journal.save_elapsed()


def _run_stages(run: RunContext) -> RunResult:
    """What a stage finds out is handed to the next; a stage that was finished before is read from the journal."""
    train = run.dataset.train
    is_pretrained = run.start.is_pretrained
    default_sec = default_budget_sec(train.num_images, run.dataset.image_size)
    if is_pretrained:
        default_sec = default_pretrained_budget_sec(train.num_images)
    budget_sec = run.settings.budget_sec or default_sec
    resources = resources_of(run, profile_stage(run, profile_cap_sec(budget_sec)))
    if run.journal.plan is None:  # later, measurements decide
        require_feasible(run, resources.tables, run.settings.definitions)
    if is_pretrained:
        plan = _pretrained_plan(run, budget_sec)
    else:
        cost = time_training(run, resources, min(0.01 * budget_sec, MAX_TIMING_SEC))
        plan = _plan(run, replace(resources, training_cost=cost), budget_sec)
        resources = resources_of(run, resources.tables)
    train_supernet(run, resources, plan.train)
    search_stage(run, resources, plan)
    specialised = specialise_stage(run, resources, plan)
    export_stage(run)
    compiled = compile_stage(run, plan, specialised)
    measure_stage(run)
    finalists = measured_finalists(run)
    forms = quantize_stage(run, plan, finalists)
    winner, quantization = choose_form(run, plan, finalists, forms)
    warn_of_little_training(run, plan, winner)
    checked = check_stage(run, winner)
    int8 = [form.finalist for form in forms]
    tables = kept_tables(run)  # improved by what was measured on the way
    return ship_stage(run, Finished(plan, tables, finalists, int8, winner, quantization, checked, compiled))


def _from_scratch_instead(run: RunContext, error: InfeasibleLimitError) -> None:
    """For a limit that no part of the pretrained network meets, where the run chose the network. Else raises."""
    if run.settings.start != AUTO or not run.start.is_pretrained:
        raise error
    reason = f"no member of {run.start.space} is predicted to run within {run.limit_ms:g} ms on {run.target.name}"
    _log.warning("%s: the network is trained from scratch", reason)
    run.journal.choose_start(StartChoice(SCRATCH.name, reason))
    run.journal.forget_from(Loaded)


def _pretrained_plan(run: RunContext, budget_sec: float) -> Plan:
    """Made once; a resumed run keeps it."""
    stored = run.journal.plan
    if stored is not None:
        return stored
    plan = make_pretrained_plan(budget_sec, run.journal.elapsed_sec, bool(compiling_runtimes(run)))
    plan = replace(plan, ship=plan.ship + reserve_sec(budget_sec, run.settings.precision, run.target))
    run.journal.set_plan(plan)
    return plan


def _plan(run: RunContext, resources: Resources, budget_sec: float) -> Plan:
    """Made once; a resumed run keeps it."""
    stored = run.journal.plan
    if stored is not None:
        return stored
    epochs_per_sec = resources.supernet_epochs_per_sec(run.settings.seed)
    plan = make_plan(budget_sec, run.journal.elapsed_sec, bool(compiling_runtimes(run)), epochs_per_sec)
    plan = replace(plan, ship=plan.ship + reserve_sec(budget_sec, run.settings.precision, run.target))
    run.journal.set_plan(plan)
    return plan


def _check_images(settings: RunSettings) -> None:
    """Refuses what says without a look at the images that they cannot be used."""
    from hwautoml.datasets import require_source
    from hwautoml.spaces import load_elastic_space, require_elastic
    from hwautoml.tasks import load_task

    require_source(settings.source)
    load_task(settings.task)
    require_elastic(settings.space)
    require_start(settings)
    if settings.image_size is not None:
        load_elastic_space(
            settings.space, image_size=settings.image_size, channels=settings.channels or 3, num_outputs=2
        )


def _require_same_place(journal: Journal, board: Board) -> None:
    """A run measures on a board or on this machine; in one that changes, the two would be mixed up."""
    place = "a board" if board.is_remote else "this machine"
    before = journal.place(place)
    if before != place:
        fix = "name its --device or --tracker" if before == "a board" else "leave out --device or --tracker"
        raise RunFolderError(f"{journal.folder} was measured on {before}, and would go on on {place}", fix=fix)


def _checked_target(settings: RunSettings, targets_dir: Path | None, board: Board) -> Target:
    """The run's target; refuses what would only fail after an hour of training."""
    load_searcher(settings.searcher)
    found = load_target(settings.target, target_folders(targets_dir))
    if settings.precision == "int8":
        found.require_precision("int8")
    require_reachable(found, board)
    if not board.is_remote:
        chosen = choose_runtime(found, settings.runtime)
        if chosen not in shipping_runtimes():
            raise InvalidValueError(
                f"a run ships networks on {' and '.join(shipping_runtimes())}, not on {chosen}",
                fix=f"--runtime tvm; a table of {chosen}: hwautoml profile --target {found.name} --runtime {chosen}",
            )
        return found
    runtime = board_runtimes()[0]
    if settings.runtime not in ("auto", runtime):
        raise InvalidValueError(
            f"boards over the network run {runtime}, and runtime {settings.runtime} was asked for",
            fix=f"--runtime {runtime}",
        )
    with device_for(found, runtime, board) as there:
        require_compiler(architecture_of(found.host_triple))
        require_real(there.conditions())
    return found


def _run_folder(out: str | Path | None, source: str | None) -> Path:
    if out is not None:
        return Path(out)
    if source is None:
        raise InvalidValueError("nothing to run: neither images nor a run folder were named", fix="hwautoml run digits")
    return Path("runs") / (re.sub(r"[^A-Za-z0-9_-]+", "-", Path(source).stem).strip("-") or "run")


def _open_journal(folder: Path, given: dict[str, Any], *, resume: bool, overwrite: bool) -> Journal:
    """The run's journal with its settings in it: the stored ones when resuming, else the given ones."""
    exists = held_run = (folder / "journal.sqlite").is_file()
    if exists and not resume and (overwrite or _never_trained(folder)):
        _new_settings(given)  # a forgotten --resume must not cost what is there
        clear_run(folder)
        exists = False
    if exists and not resume:
        raise RunFolderError(
            f"{folder} already holds a run",
            fix=f"--resume to go on with it, --overwrite to start anew, or another --out than {folder}",
        )
    if resume and not exists:
        raise RunFolderError(
            f"nothing to resume: {folder} holds no run", fix="leave out --resume, or name the run's --out"
        )
    if not held_run and folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()):
        raise RunFolderError(f"{folder} holds other files and no run", fix="an empty or new folder as --out")
    journal = Journal(RunStore(folder, create=True))
    stored = journal.settings if exists else None
    if stored is None:
        journal.start(_new_settings(given))
        return journal
    try:
        require_same(stored, given)
    except RunFolderError:
        journal.close()
        raise
    return journal


def _never_trained(folder: Path) -> bool:
    """Refused for its images or its limit, say: nothing in it is worth a question.

    Raises:
        RunFolderError: another process is at work in it.
    """
    with Journal(RunStore(folder)) as journal:
        return journal.plan is None


def _new_settings(given: dict[str, Any]) -> RunSettings:
    if given["source"] is None:
        raise InvalidValueError("name the images: digits, a folder, a .zip or an .npz", fix="hwautoml run digits")
    if given["latency_ms"] is None:
        raise InvalidValueError("name the latency limit in ms", fix="--latency-ms 1")
    return RunSettings(**{"target": "cpu", **{name: value for name, value in given.items() if value is not None}})
