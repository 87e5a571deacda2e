"""Subcommands about targets: which there are, how to describe another one, what this machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwautoml.cli import console, summaries
from hwautoml.cli.options import Json, TargetsDir, app

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


@targets_app.command("new", epilog="Example: hwautoml targets new mynewboard --like rpi4")
def targets_new(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the new target: letters, digits, dot, dash, underscore.")],
    like: Annotated[str, typer.Option(help="Target whose description is copied to start from.")],
    targets_dir: TargetsDir = None,
    json: Json = False,
) -> None:
    """Write NAME.toml, a copy of another target's, for you to fill in your device's figures."""
    before = context.parent.params if context.parent is not None else {}
    _show_targets(name, targets_dir or before.get("targets_dir"), json or bool(before.get("json")), like)


@app.command(epilog="Example: hwautoml starts --json")
def starts(json: Json = False) -> None:
    """Where weights can come from: pretrained networks, what they were trained on, whether they are at hand."""
    with console.session(json) as show:
        from hwautoml.pipeline import starting_points as verb

        show.result(verb(), summaries.starts_summary)


@app.command(epilog="Example: hwautoml doctor --json")
def doctor(json: Json = False) -> None:
    """What this machine has: torch, CUDA, ONNX Runtime providers, TVM targets, cross-compilers."""
    with console.session(json) as show:
        from hwautoml.pipeline import doctor as verb

        show.result(verb(), summaries.doctor_summary)


def _show_targets(name: str | None, targets_dir: Path | None, json: bool, like: str | None = None) -> None:
    with console.session(json) as show:
        from hwautoml.pipeline import targets as verb

        found = verb(name, like=like, targets_dir=targets_dir)
        rows = [target.to_json() for target in found]
        show.result(rows[0] if name is not None else {"targets": rows}, summaries.targets_summary)
