"""Subcommands about boards on the network: serve as one, and see which there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwautoml.cli import console
from hwautoml.cli.options import Device, Json, Key, Tracker, app

if TYPE_CHECKING:
    from rich.console import Console

    from hwautoml.pipeline.verbs.lending import BoardStatus


@app.command(epilog="Example: hwautoml agent --host 0.0.0.0 --key SECRET")
def agent(
    host: Annotated[str, typer.Option(help="Address to listen on; any other than the default needs --key.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 9090,
    key: Annotated[str | None, typer.Option(help="What clients must know; with --tracker the kind of board.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="The same in a file, which no process list shows.")] = None,
    tracker: Annotated[str | None, typer.Option(help="host:port of the TVM tracker to register with.")] = None,
    json: Json = False,
) -> None:
    """Let other machines measure networks on this one; run it on the board.

    Whoever connects runs code on this machine: see docs/devices.md for what protects it. It needs TVM's runtime
    and none of what trains or compiles; `python -m hwautoml.devices.agent` is the same without typer and rich.
    """
    with console.session(json) as show:
        from hwautoml.pipeline import agent as verb

        show.bars.stop()  # its thread and the agent's forks don't go together

        def tell(address: object) -> None:
            show.result({"listening": str(address)}, lambda out, told: out.print(f"listening on {told['listening']}"))

        verb(host=host, port=port, key=key, key_file=key_file, tracker=tracker, on_listening=tell)


@app.command(epilog="Example: hwautoml boards --tracker 192.168.1.2:9190")
def boards(device: Device = None, tracker: Tracker = None, key: Key = None, json: Json = False) -> None:
    """Boards that can be measured on: which there are, which are busy, what they tell about themselves."""
    with console.session(json) as show:
        from hwautoml.pipeline import boards as verb

        found = verb(device=device, tracker=tracker, key=key)
        show.result({"devices": [board.to_json() for board in found]}, lambda out, _: _boards_summary(out, found))


def _boards_summary(out: Console, found: Sequence[BoardStatus]) -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("board", "state", "processor", "cores", "TVM", "agent", "emulated by"):
        table.add_column(column, overflow="fold")
    for board in found:
        free = board.state if board.num_boards is None else f"{board.num_free} of {board.num_boards} free"
        waiting = f", {board.num_waiting} waiting" if board.num_waiting else ""
        name = console.escape_markup(f"{board.key} ({board.address})" if board.key else board.address)
        for number, report in enumerate(board.reports or (None,)):
            first = (name, free + waiting) if number == 0 else ("", "")
            table.add_row(*first, *_facts(report))
    out.print(table)
    for board in found:
        if board.reason:
            out.print(console.escape_markup(board.reason), soft_wrap=True)
    if not found:
        out.print("no boards are registered there")


def _facts(report: Mapping[str, Any] | None) -> tuple[str, ...]:
    if report is None:
        return ("-",) * 5
    processor = f"{report['cpu'] or 'unknown'} ({report['machine'] or 'unknown'})"
    return (
        console.escape_markup(processor),
        str(report["num_allowed_cores"] or "unknown"),
        console.escape_markup(str(report["runtime_version"])),
        "yes" if report["agent"] else "no",
        console.escape_markup(report.get("emulator") or "-"),
    )
