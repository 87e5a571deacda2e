"""Subcommand ``profile``: measure a latency table."""

from __future__ import annotations

from typing import Annotated

import typer

from hwautoml.cli import console, table_summaries
from hwautoml.cli.options import (
    Batch,
    Channels,
    Device,
    ImageSize,
    Json,
    Key,
    Like,
    Precision,
    ProfilesDir,
    Seed,
    Space,
    TableOut,
    TableRuntime,
    Target,
    TargetsDir,
    Threads,
    Tracker,
    app,
    channels_of,
    names_of,
)
from hwautoml.core.duration import parse_duration


@app.command(epilog="Example: hwautoml profile --target cpu --image-size 32 --runtime onnxruntime --precision int8")
def profile(
    target: Target = "cpu",
    space: Space = "mobile",
    image_size: ImageSize = None,
    channels: Channels = None,
    runtime: TableRuntime = "auto",
    threads: Threads = None,
    batch: Batch = 1,
    precision: Precision = "fp32",
    device: Device = None,
    tracker: Tracker = None,
    key: Key = None,
    like: Like = None,
    measurements: Annotated[
        int | None,
        typer.Option(help="Measure so many telling networks instead of layers. \\[default with --like: 10]"),
    ] = None,
    out: TableOut = None,
    budget: Annotated[str, typer.Option(help="At most this long; what is left out is inferred.")] = "5m",
    seed: Seed = 0,
    targets_dir: TargetsDir = None,
    profiles_dir: ProfilesDir = None,
    json: Json = False,
) -> None:
    """Measure a latency table: what each layer costs on a target. Goes on where it was interrupted.

    Every layer, or with --like rpi4,rpi5 --measurements 10 the tables of similar devices, corrected by ten measured
    networks. hwautoml tables makes tables of devices that cannot be measured from here, and looks at finished ones.
    """
    with console.session(json, resume_hint="the same command goes on where this one stopped") as show:
        from hwautoml.pipeline import profile as verb

        result = verb(
            target,
            space=space,
            image_size=image_size,
            channels=channels_of(channels),
            runtime=runtime,
            threads=threads,
            batch=batch,
            precision=precision,
            device=device,
            tracker=tracker,
            key=key,
            like=names_of(like),
            measurements=measurements,
            out=out,
            budget_sec=parse_duration(budget, "--budget"),
            seed=seed,
            targets_dir=targets_dir,
            profiles_dir=profiles_dir,
            on_progress=show.progress,
        )
        show.result(result, table_summaries.facts_summary)
