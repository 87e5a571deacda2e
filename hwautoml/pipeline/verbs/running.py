"""Verb ``run``: labelled images and a target in; a trained, exported, compiled, measured, shippable model out."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwautoml.compilers import board_runtimes, shipping_runtimes, traits_of
from hwautoml.compilers._toolchains import architecture_of, require_compiler
from hwautoml.core.board import Board
from hwautoml.core.plan import Plan, default_budget_sec, make_plan, profile_cap_sec
from hwautoml.core.progress import OnProgress, silent
from hwautoml.core.resources import target_folders
from hwautoml.core.target import Target, load_target
from hwautoml.errors import InvalidValueError, RunFolderError
from hwautoml.pipeline.connecting import device_for, require_reachable, require_real
from hwautoml.pipeline.runs.job import Job
from hwautoml.pipeline.runs.settings import RunSettings, require_same
from hwautoml.pipeline.stages import results
from hwautoml.pipeline.stages.profiling import profile_stage
from hwautoml.pipeline.tables.finding import choose_runtime
from hwautoml.searchers import load_searcher
from hwautoml.store.files import read_json
from hwautoml.store.run_store import RunStore, clear_run

if TYPE_CHECKING:
    from hwautoml.datasets import ImageDataset


def run(
    source: str | None = None,
    *,
    target: str | None = None,
    latency_ms: float | None = None,
    out: str | Path | None = None,
    budget_sec: float | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    runtime: str | None = None,
    precision: str | None = None,
    searcher: str | None = None,
    device: str | None = None,
    tracker: str | None = None,
    key: str | None = None,
    seed: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    targets_dir: Path | None = None,
    profiles_dir: Path | None = None,
    on_progress: OnProgress = silent,
) -> dict[str, Any]:
    """Search, train, export, compile, measure and bundle the best network for a target and a limit.

    ``source``: ``digits``, a folder of class folders, a ``.zip`` of one, or an ``.npz``. ``latency_ms`` is
    for one image on the target, and is met by measurement. ``budget_sec`` is wall-clock time for everything;
    by default it grows with the data. ``precision``: ``auto`` (the default) ships int8 where it was measured to be
    faster and at most half a point less accurate, ``fp32`` does not try it, ``int8`` ships nothing else.
    ``device``, or ``tracker`` and ``key``, name the board on which latencies are measured: TVM libraries, compiled
    here. They are not stored, because addresses change.
    Interrupted, it goes on with ``resume=True`` and the same ``out``.

    Returns:
        What ``result.json`` in the run folder holds; see docs/run.md.

    Raises:
        HwAutoMLError: the family of docs/exit_codes.md.
    """
    given = {
        "source": source,
        "target": target,
        "latency_ms": latency_ms,
        "budget_sec": budget_sec,
        "image_size": image_size,
        "channels": channels,
        "runtime": runtime,
        "precision": precision,
        "searcher": searcher,
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
    with _open_store(folder, given, resume=resume, overwrite=overwrite) as store:
        settings = RunSettings.from_json(store.setting("settings"))
        if store.stage("ship") is not None:
            return dict(read_json(folder / "result.json"))
        found = _checked_target(settings, targets_dir, board)
        _require_same_place(store, board)
        job = Job(store, settings, found, on_progress, profiles_dir, board)
        try:
            return _run_stages(job)
        finally:
            job.save_elapsed()
            job.close_devices()


def _check_images(settings: RunSettings) -> None:
    """Refuses what says without a look at the images that they cannot be used."""
    from hwautoml.datasets import require_source
    from hwautoml.spaces.mobile import MobileSpace

    require_source(settings.source)
    if settings.image_size is not None:
        MobileSpace(settings.image_size, settings.channels or 3, num_classes=2)


def _require_same_place(store: RunStore, board: Board) -> None:
    """A run measures on a board or on this machine; in one that changes, the two would be mixed up."""
    place = "a board" if board.is_remote else "this machine"
    before = store.setting("place", place)
    if before != place:
        fix = "name its --device or --tracker" if before == "a board" else "leave out --device or --tracker"
        raise RunFolderError(f"{store.folder} was measured on {before}, and would go on on {place}", fix=fix)
    store.set_setting("place", place)


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
        host = found.tvm.get("host", found.tvm)  # a GPU's
        require_compiler(architecture_of(str(host["mtriple"]) if "mtriple" in host else None))
        require_real(there.conditions())
    return found


def _run_stages(job: Job) -> dict[str, Any]:
    from hwautoml.pipeline.runs.utilisation import MAX_TIMING_SEC, afford, time_training
    from hwautoml.pipeline.stages.quantizing import choose_form, quantize_stage
    from hwautoml.pipeline.stages.searching import latencies_of, search_stage
    from hwautoml.pipeline.stages.shipping import (
        bundle_stage,
        check_stage,
        compile_stage,
        export_stage,
        finalists,
        measure_stage,
        write_result,
    )
    from hwautoml.pipeline.stages.specialising import specialise_stage
    from hwautoml.pipeline.stages.training import train_supernet

    open_data(job)
    budget = _budget_sec(job)
    job.profile_cap_sec = profile_cap_sec(budget)
    profile_stage(job)
    if job.store.setting("plan") is None:  # later, measurements decide
        _require_feasible(job, latencies_of(job.space, job.tables))
    time_training(job, min(0.01 * budget, MAX_TIMING_SEC))
    job.plan = _plan(job, budget)
    afford(job)
    train_supernet(job)
    search_stage(job)
    specialise_stage(job)
    export_stage(job)
    compile_stage(job)
    measure_stage(job)
    candidates = finalists(job)
    forms = quantize_stage(job, candidates)
    winner, quantization = choose_form(job, candidates, forms)
    checked = check_stage(job, winner)
    with job.timed_stage("ship"):
        began = time.monotonic()
        result = results.summarise(job, candidates, [f.finalist for f in forms], winner, checked, quantization)
        bundle_stage(job, winner, checked, result)
        # The report is the last second of a run; its own time is the one thing it cannot show.
        result["seconds"] |= {"ship": time.monotonic() - began, "total": job.elapsed_sec}
        results.write_run_report(job, candidates, winner, checked, result)
        result["seconds"] |= {"ship": time.monotonic() - began, "total": job.elapsed_sec}
        write_result(job, result)
    return result


def open_data(job: Job) -> None:
    """Load the images, and set the run's data set and space.

    Raises:
        RunFolderError: the data changed since the run was started.
    """
    from hwautoml.spaces.mobile import MobileSpace

    job.dataset = _load(job)
    known = job.store.setting("dataset_fingerprint")
    if known is not None and known != job.dataset.fingerprint:
        raise RunFolderError(
            f"the images in {job.settings.source} changed since this run was started",
            fix="start a new run: another --out",
        )
    job.store.set_setting("dataset_fingerprint", job.dataset.fingerprint)
    job.space = MobileSpace(job.dataset.image_size, job.dataset.channels, job.dataset.num_classes)
    if job.store.stage("data") is None:
        counts = {split: getattr(job.dataset, split).num_images for split in ("train", "val", "test")}
        job.store.finish_stage("data", job.elapsed_sec, {"counts": counts, "skipped": len(job.dataset.skipped)})


def _load(job: Job) -> ImageDataset:
    from hwautoml.datasets import load_dataset

    settings = job.settings

    def listen(done: int, total: int, *_: object) -> None:
        job.report("data", min(done / max(total, 1), 0.999), f"{done:,} of {total:,} images")

    job.report("data", 0.0, settings.source)
    dataset = load_dataset(
        settings.source,
        image_size=settings.image_size,
        channels=settings.channels,
        seed=settings.seed,
        cache_dir=job.folder / "cache",
        on_progress=listen,
    )
    skipped = f", {len(dataset.skipped)} skipped" if dataset.skipped else ""
    job.report("data", 1.0, f"{dataset.train.num_images:,} training images of {dataset.num_classes} classes{skipped}")
    return dataset


def _budget_sec(job: Job) -> float:
    return job.settings.budget_sec or default_budget_sec(job.dataset.train.num_images, job.dataset.image_size)


def _plan(job: Job, budget: float) -> Plan:
    """Made once; a resumed run keeps it."""
    from hwautoml.pipeline.runs.utilisation import supernet_epochs_per_sec
    from hwautoml.pipeline.stages.quantizing import reserve_sec

    stored = job.store.setting("plan")
    if stored is not None:
        return Plan(**stored)
    plan = make_plan(budget, job.elapsed_sec, _compiles(job), supernet_epochs_per_sec(job))
    plan = replace(plan, ship=plan.ship + reserve_sec(budget, job.settings.precision, job.target))
    job.store.set_setting("plan", plan.to_json())
    return plan


def _compiles(job: Job) -> bool:
    return any(not traits_of(runtime).opens_source(job.target) for runtime in job.runtimes)


def _require_feasible(job: Job, latencies: Any) -> None:
    import numpy as np

    from hwautoml.searchers.problem import require_feasible

    require_feasible(job.space, latencies, job.settings.latency_ms, np.random.default_rng(job.settings.seed))


def _run_folder(out: str | Path | None, source: str | None) -> Path:
    if out is not None:
        return Path(out)
    if source is None:
        raise InvalidValueError("nothing to run: neither images nor a run folder were named", fix="hwautoml run digits")
    return Path("runs") / (re.sub(r"[^A-Za-z0-9_-]+", "-", Path(source).stem).strip("-") or "run")


def _open_store(folder: Path, given: dict[str, Any], *, resume: bool, overwrite: bool) -> RunStore:
    """The run's store with its settings in it: the stored ones when resuming, else the given ones."""
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
    if not held_run and folder.is_dir() and any(folder.iterdir()):
        raise RunFolderError(f"{folder} holds other files and no run", fix="an empty or new folder as --out")
    store = RunStore(folder, create=True)
    if exists and store.setting("settings") is not None:
        stored = RunSettings.from_json(store.setting("settings"))
        try:
            require_same(stored, given)
        except RunFolderError:
            store.close()
            raise
        return store
    store.set_setting("settings", _new_settings(given).to_json())
    return store


def _never_trained(folder: Path) -> bool:
    """Refused for its images or its limit, say: nothing in it is worth a question.

    Raises:
        RunFolderError: another process is at work in it.
    """
    with RunStore(folder) as store:
        return store.setting("plan") is None


def _new_settings(given: dict[str, Any]) -> RunSettings:
    if given["source"] is None:
        raise InvalidValueError("name the images: digits, a folder, a .zip or an .npz", fix="hwautoml run digits")
    if given["latency_ms"] is None:
        raise InvalidValueError("name the latency limit in ms", fix="--latency-ms 1")
    defaults = {"target": "cpu", "runtime": "auto", "precision": "auto", "searcher": "surrogate", "seed": 0}
    return RunSettings(**{**defaults, **{name: value for name, value in given.items() if value is not None}})
