"""Subcommands about targets: which there are, what their layers cost, what this machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwautoml.cli import console, summaries
from hwautoml.cli.options import Json, ProfilesDir, Runtime, Seed, Target, TargetsDir, app, channels_of
from hwautoml.core.duration import parse_duration

targets_app = typer.Typer(no_args_is_help=False, invoke_without_command=True)
app.add_typer(
    targets_app,
    name="targets",
    help="Known targets, what each needs, and which work from this machine.",
    epilog="Example: hwautoml targets --json",
)


@targets_app.callback()
def targets(context: typer.Context, targets_dir: TargetsDir = None, json: Json = False) -> None:
    """Known targets, what each needs, and which work from this machine."""
    if context.invoked_subcommand is None:
        _show_targets(None, targets_dir, json)


@targets_app.command("show", epilog="Example: hwautoml targets show rpi4")
def targets_show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of a target.")],
    targets_dir: TargetsDir = None,
    json: Json = False,
) -> None:
    """Everything known about one target."""
    before = context.parent.params if context.parent is not None else {}  # hwautoml targets --json show NAME
    _show_targets(name, targets_dir or before.get("targets_dir"), json or bool(before.get("json")))


@app.command(epilog="Example: hwautoml profile --target cpu --image-size 32")
def profile(
    target: Target = "cpu",
    image_size: Annotated[int, typer.Option(help="Side of the images in pixels, 8 to 224.")] = 32,
    channels: Annotated[str, typer.Option(help="rgb or grey.")] = "rgb",
    runtime: Runtime = "auto",
    budget: Annotated[str, typer.Option(help="At most this long; what is left out is inferred.")] = "5m",
    seed: Seed = 0,
    targets_dir: TargetsDir = None,
    profiles_dir: ProfilesDir = None,
    json: Json = False,
) -> None:
    """Measure a latency table: what each layer costs on a target. Goes on where it was interrupted."""
    with console.session(json, resume_hint="the same command goes on where this one stopped") as show:
        from hwautoml.pipeline import profile as verb

        table, path = verb(
            target,
            image_size=image_size,
            channels=channels_of(channels) or 3,
            runtime=runtime,
            budget_sec=parse_duration(budget),
            seed=seed,
            targets_dir=targets_dir,
            profiles_dir=profiles_dir,
            on_progress=show.progress,
        )
        show.result(summaries.table_facts(table, path), summaries.profile_summary)


@app.command(epilog="Example: hwautoml doctor --json")
def doctor(json: Json = False) -> None:
    """What this machine has: torch, CUDA, ONNX Runtime providers, TVM targets, cross-compilers."""
    with console.session(json) as show:
        from hwautoml.pipeline import doctor as verb

        show.result(verb(), summaries.doctor_summary)


def _show_targets(name: str | None, targets_dir: Path | None, json: bool) -> None:
    with console.session(json) as show:
        from hwautoml.pipeline import targets as verb

        rows = verb(name, targets_dir=targets_dir)
        show.result(rows[0] if name is not None else {"targets": rows}, summaries.targets_summary)
