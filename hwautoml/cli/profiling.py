"""Subcommand ``profile``: make a latency table, or look at finished ones."""

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
    Seed,
    Space,
    Target,
    TargetsDir,
    Threads,
    Tracker,
    app,
    channels_of,
)
from hwautoml.core.duration import parse_duration

FEW, TABLES = "With few measurements, or none", "Finished tables"


@app.command(epilog="Example: hwautoml profile --target cpu --image-size 32 --runtime onnxruntime --precision int8")
def profile(
    target: Target = "cpu",
    space: Space = "mobile",
    image_size: ImageSize = None,
    channels: Channels = None,
    runtime: Annotated[
        str, typer.Option(help="auto, one of the target's, or on this machine torch or torch-inductor.")
    ] = "auto",
    threads: Threads = None,
    batch: Batch = 1,
    precision: Annotated[str, typer.Option(help="fp32 or int8; on GPUs also fp16 or bf16.")] = "fp32",
    device: Device = None,
    tracker: Tracker = None,
    key: Key = None,
    like: Annotated[
        str | None, typer.Option(help="Targets or table files to start from, a,b,c: few-shot.", rich_help_panel=FEW)
    ] = None,
    measurements: Annotated[
        int | None,
        typer.Option(help="Most telling networks to measure. \\[default with --like: 10]", rich_help_panel=FEW),
    ] = None,
    export_to: Annotated[
        Path | None, typer.Option(help="Write these networks here, to be measured by hand.", rich_help_panel=FEW)
    ] = None,
    from_csv: Annotated[
        Path | None, typer.Option(help="Read back what was measured by hand.", rich_help_panel=FEW)
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="From the datasheet, nothing measured.", rich_help_panel=FEW)
    ] = False,
    inspect: Annotated[
        Path | None, typer.Option(help="What this table holds; its most expensive layers.", rich_help_panel=TABLES)
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="In what two tables differ.", metavar="TABLE TABLE", rich_help_panel=TABLES),
    ] = None,
    merge: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Join two tables of the same kind.", metavar="TABLE TABLE", rich_help_panel=TABLES),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File for the table. \\[default: in --profiles-dir]")] = None,
    picture: Annotated[
        Path | None, typer.Option(help="PNG of what --inspect or --compare found.", rich_help_panel=TABLES)
    ] = None,
    budget: Annotated[str, typer.Option(help="At most this long; what is left out is inferred.")] = "5m",
    seed: Seed = 0,
    targets_dir: TargetsDir = None,
    profiles_dir: ProfilesDir = None,
    json: Json = False,
) -> None:
    """Measure a latency table: what each layer costs on a target. Goes on where it was interrupted.

    Without access to measure every layer:
    --like rpi4,rpi5 --measurements 10 corrects the tables of similar devices by ten measured networks;
    with --export-to DIR and --from-csv DIR/measurements.csv you measure them by hand; --estimate measures nothing.
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
            like=None if like is None else [name.strip() for name in like.split(",") if name.strip()],
            measurements=measurements,
            export_to=export_to,
            from_csv=from_csv,
            estimate=estimate,
            inspect=inspect,
            compare=compare,
            merge=merge,
            out=out,
            picture=picture,
            budget_sec=parse_duration(budget, "--budget"),
            seed=seed,
            targets_dir=targets_dir,
            profiles_dir=profiles_dir,
            on_progress=show.progress,
        )
        show.result(result, table_summaries.summary_of(result))
