"""Subcommand for images before they are trained on: check them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwautoml.cli import console, summaries
from hwautoml.cli.options import Group, Json, LabelColumn, LabelPattern, PathColumn, Seed, app, channels_of


@app.command(epilog="Example: hwautoml check photos/ --page photos.html")
def check(
    source: Annotated[str, typer.Argument(help="As for run: a folder, .zip, .csv, .npz, or digits.")],
    task: Annotated[
        str, typer.Option(help="What is predicted: classification, or a package's own.")
    ] = "classification",
    image_size: Annotated[int | None, typer.Option(help="Side in pixels that images are brought to.")] = None,
    channels: Annotated[str | None, typer.Option(help="rgb or grey. \\[default: what the files have]")] = None,
    fit: Annotated[str, typer.Option(help="How images become squares: auto, crop, pad or stretch.")] = "auto",
    label_pattern: LabelPattern = None,
    group: Group = None,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    seed: Seed = 0,
    page: Annotated[Path | None, typer.Option(help="HTML file to write, with pictures of what was found.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings, too, end with exit code 3.")] = False,
    json: Json = False,
) -> None:
    """Ask of labelled images what should be known before training: copies, leaks, doubtful labels, and more.

    Exit code 3: a run would refuse them.
    """
    with console.session(json) as show:
        from hwautoml.pipeline import check as verb
        from hwautoml.pipeline.verbs.checking_data import require_usable

        result = verb(
            source,
            task=task,
            image_size=image_size,
            channels=channels_of(channels),
            fit=fit,
            label_pattern=label_pattern,
            group=group,
            path_column=path_column,
            label_column=label_column,
            seed=seed,
            page=page,
            strict=strict,
            on_progress=show.progress,
        )
        show.result(result, summaries.check_summary)
        require_usable(result)
