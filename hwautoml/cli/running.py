"""Subcommands around a run: start it, search it again, take networks out of it, report it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from hwautoml.cli import console, summaries
from hwautoml.cli.options import (
    Device,
    Group,
    Json,
    Key,
    LabelColumn,
    LabelPattern,
    Limits,
    Objectives,
    PathColumn,
    ProfilesDir,
    Runtime,
    TargetsDir,
    Tracker,
    TrainedRun,
    app,
    channels_of,
)
from hwautoml.core.duration import parse_duration


@app.command(epilog="Example: hwautoml run photos/ --target cpu --image-size 32 --latency-ms 1 --budget 20m")
def run(
    source: Annotated[
        str | None,
        typer.Argument(help="digits, a folder of class folders, a .zip of one, a .csv of labels, or an .npz."),
    ] = None,
    target: Annotated[str | None, typer.Option(help="A target's name; see: hwautoml targets. \\[default: cpu]")] = None,
    latency_ms: Annotated[
        float | None, typer.Option(help="Limit for one image on the target, met by measurement.")
    ] = None,
    objective: Objectives = None,
    limit: Limits = None,
    out: Annotated[Path | None, typer.Option(help="Run folder. \\[default: runs/NAME]")] = None,
    budget: Annotated[str | None, typer.Option(help="Wall-clock time for everything, e.g. 90s, 20m, 2h.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels that images are brought to, 8 to 224.")] = None,
    channels: Annotated[str | None, typer.Option(help="rgb or grey. \\[default: colour if any file has it]")] = None,
    fit: Annotated[
        str | None, typer.Option(help="How images become squares: auto, crop, pad or stretch. \\[default: auto]")
    ] = None,
    label_pattern: LabelPattern = None,
    group: Group = None,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    runtime: Annotated[str | None, typer.Option(help="Runtime of the latency table: auto, onnxruntime or tvm.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="auto, fp32 or int8: auto ships what measured best. \\[default: auto]")
    ] = None,
    searcher: Annotated[
        str | None, typer.Option(help="surrogate, nsga2, random or a package's. \\[default: surrogate]")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="What is predicted; packages bring further ones. \\[default: classification]")
    ] = None,
    space: Annotated[
        str | None, typer.Option(help="mobile, or an elastic space that a package brings. \\[default: mobile]")
    ] = None,
    device: Device = None,
    tracker: Tracker = None,
    key: Key = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Same seed, same choices. \\[default: 0]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the interrupted run in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the run in --out and start anew.")] = False,
    targets_dir: TargetsDir = None,
    profiles_dir: ProfilesDir = None,
    json: Json = False,
) -> None:
    """Images and a target in; a trained, exported, compiled, measured, shippable model out."""
    hint = _resume_hint(
        source, out=out, device=device, tracker=tracker, key=key, targets_dir=targets_dir, profiles_dir=profiles_dir
    )
    with console.session(json, resume_hint=hint) as show:
        from hwautoml.pipeline import run as verb

        result = verb(
            source,
            target=target,
            latency_ms=latency_ms,
            objective=objective,
            limit=limit,
            out=out,
            budget_sec=None if budget is None else parse_duration(budget, "--budget"),
            image_size=image_size,
            channels=channels_of(channels),
            fit=fit,
            label_pattern=label_pattern,
            group=group,
            path_column=path_column,
            label_column=label_column,
            runtime=runtime,
            precision=precision,
            searcher=searcher,
            task=task,
            space=space,
            device=device,
            tracker=tracker,
            key=key,
            seed=seed,
            resume=resume,
            overwrite=overwrite,
            targets_dir=targets_dir,
            profiles_dir=profiles_dir,
            on_progress=show.progress,
        )
        show.result(result, summaries.run_summary)


@app.command(epilog="Example: hwautoml search --run runs/photos --target cpu --latency-ms 0.5")
def search(
    run: TrainedRun,
    target: Annotated[str | None, typer.Option(help="Another target. \\[default: the run's]")] = None,
    latency_ms: Annotated[float | None, typer.Option(help="Another limit. \\[default: the run's]")] = None,
    objective: Objectives = None,
    limit: Limits = None,
    runtime: Runtime = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or int8; scores are those of fp32.")] = "auto",
    budget: Annotated[str, typer.Option(help="Time for all of it; most goes into scoring more.")] = "7s",
    seed: Annotated[int | None, typer.Option(min=0, help="Same seed, same choices. \\[default: the run's]")] = None,
    targets_dir: TargetsDir = None,
    profiles_dir: ProfilesDir = None,
    json: Json = False,
) -> None:
    """Another limit or target for a trained run: seconds, no retraining."""
    with console.session(json) as show:
        from hwautoml.pipeline import search as verb

        result = verb(
            run,
            target=target,
            latency_ms=latency_ms,
            objective=objective,
            limit=limit,
            runtime=runtime,
            precision=precision,
            budget_sec=parse_duration(budget, "--budget"),
            seed=seed,
            targets_dir=targets_dir,
            profiles_dir=profiles_dir,
            on_progress=show.progress,
        )
        show.result(result, summaries.search_summary)


@app.command(epilog="Example: hwautoml export --run runs/photos --arch best --format onnx")
def export(
    run: TrainedRun,
    arch: Annotated[str, typer.Option(help="best, or the id of any scored architecture.")] = "best",
    format: Annotated[str, typer.Option(help="onnx.")] = "onnx",
    out: Annotated[Path | None, typer.Option(help="File to write. \\[default: RUN/exports/ID.onnx]")] = None,
    targets_dir: TargetsDir = None,
    json: Json = False,
) -> None:
    """Write one network of a run as a file, checked against the trained one."""
    with console.session(json) as show:
        from hwautoml.pipeline import export as verb

        result = verb(run, arch=arch, format=format, out=out, targets_dir=targets_dir, on_progress=show.progress)
        show.result(result, summaries.export_summary)


@app.command(epilog="Example: hwautoml report runs/photos")
def report(run: Annotated[Path, typer.Argument(help="Folder of a finished run.")], json: Json = False) -> None:
    """Write the report of a finished run anew: HTML, PNG and CSV."""
    with console.session(json) as show:
        from hwautoml.pipeline import report as verb

        show.result(verb(run), summaries.report_summary)


def _resume_hint(source: str | None, **options: Path | str | None) -> str:
    command = ["hwautoml", "run", *([source] if source else []), "--resume"]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)] if value is not None else []
    return "go on with: " + shlex.join(command)
