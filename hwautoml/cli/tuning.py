"""Subcommands about tuned kernels: tune those of a space, look at what is recorded, add what others recorded."""

from __future__ import annotations

from pathlib import Path
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
    ProfilesDir,
    Records,
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
    records: Records = None,
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
            records=records,
            device=device,
            tracker=tracker,
            key=key,
            seed=seed,
            targets_dir=targets_dir,
            profiles_dir=profiles_dir,
            on_progress=show.progress,
        )
        show.result(result, table_summaries.tune_summary)


records_app = typer.Typer(no_args_is_help=True)
app.add_typer(
    records_app,
    name="records",
    help="What the tuner recorded of a target's kernels: look at it, add what others recorded.",
    epilog="Example: hwautoml records inspect --target cpu",
)


@records_app.command("inspect", epilog="Example: hwautoml records inspect --target cpu")
def inspect(
    target: Target = "cpu",
    records: Records = None,
    targets_dir: TargetsDir = None,
    profiles_dir: ProfilesDir = None,
    json: Json = False,
) -> None:
    """How many functions are recorded for each device, after how many trials, and the slowest of them."""
    with console.session(json) as show:
        from hwautoml.pipeline import inspect_records as verb

        found = verb(target, records=records, targets_dir=targets_dir, profiles_dir=profiles_dir)
        show.result(found, table_summaries.records_summary)


@records_app.command("merge", epilog="Example: hwautoml records merge other.json --target cpu")
def merge(
    files: Annotated[list[Path], typer.Argument(help="Files of records that hwautoml tune wrote.")],
    target: Target = "cpu",
    records: Records = None,
    targets_dir: TargetsDir = None,
    profiles_dir: ProfilesDir = None,
    json: Json = False,
) -> None:
    """Add what other files know better or alone: a record of more trials wins, then the faster one."""
    with console.session(json) as show:
        from hwautoml.pipeline import merge_records as verb

        found = verb(files, target=target, records=records, targets_dir=targets_dir, profiles_dir=profiles_dir)
        show.result(found, table_summaries.records_summary)
