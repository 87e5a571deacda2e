"""Subcommand that tunes kernels for a target."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwautoml.cli import console, summaries
from hwautoml.cli.options import (
    Batch,
    Channels,
    Device,
    ImageSize,
    Json,
    Key,
    ProfilesDir,
    Seed,
    Space,
    Target,
    TargetsDir,
    Tracker,
    app,
    channels_of,
)
from hwautoml.core.duration import parse_duration


@app.command(epilog="Example: hwautoml tune --target cpu --space mobile --image-size 32 --budget 30m")
def tune(
    target: Target = "cpu",
    space: Space = "mobile",
    image_size: ImageSize = None,
    channels: Channels = None,
    batch: Batch = 1,
    precision: Annotated[str, typer.Option(help="fp32 or int8; one file of records holds both.")] = "fp32",
    budget: Annotated[str, typer.Option(help="At most about this long; the same command goes on later.")] = "30m",
    inspect: Annotated[bool, typer.Option("--inspect", help="Only show what is recorded for the target.")] = False,
    merge: Annotated[
        list[Path] | None, typer.Option(help="Only add what this file of records knows better; may be repeated.")
    ] = None,
    records: Annotated[
        Path | None, typer.Option(help="File of records. \\[default: beside the target's latency tables]")
    ] = None,
    device: Device = None,
    tracker: Tracker = None,
    key: Key = None,
    seed: Seed = 0,
    targets_dir: TargetsDir = None,
    profiles_dir: ProfilesDir = None,
    json: Json = False,
) -> None:
    """Tune the TVM kernels of a whole search space once per target; any network of it then compiles by look-up."""
    with console.session(json, resume_hint="the same command goes on where this one stopped") as show:
        from hwautoml.pipeline import tune as verb

        result = verb(
            target,
            space=space,
            image_size=image_size,
            channels=channels_of(channels),
            batch=batch,
            precision=precision,
            budget_sec=parse_duration(budget, "--budget"),
            inspect=inspect,
            merge=merge,
            records=records,
            device=device,
            tracker=tracker,
            key=key,
            seed=seed,
            targets_dir=targets_dir,
            profiles_dir=profiles_dir,
            on_progress=show.progress,
        )
        show.result(result, summaries.tune_summary)
