"""Subcommands of ``tables``: look at finished latency tables, and make them where nothing can be measured from here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwautoml.cli import console, table_summaries
from hwautoml.cli.options import (
    Batch,
    Channels,
    ImageSize,
    Json,
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
    app,
    channels_of,
    names_of,
)

tables_app = typer.Typer(no_args_is_help=True)
app.add_typer(
    tables_app,
    name="tables",
    help="Latency tables: inspect, compare and merge finished ones; estimate one, or make it by hand. (Measuring one: "
    "hwautoml profile.)",
    epilog="Example: hwautoml tables inspect TABLE.json --picture table.png",
)

Table = Annotated[Path, typer.Argument(help="File of a latency table.")]
Picture = Annotated[Path | None, typer.Option(help="Draw what was found, as a PNG file.")]


@tables_app.command("inspect", epilog="Example: hwautoml tables inspect TABLE.json --picture table.png")
def inspect(table: Table, picture: Picture = None, json: Json = False) -> None:
    """What a table holds: of what it is, how well it predicts, and its most expensive layers."""
    with console.session(json) as show:
        from hwautoml.pipeline import inspect_table as verb

        show.result(verb(table, picture=picture), table_summaries.inspection_summary)


@tables_app.command("compare", epilog="Example: hwautoml tables compare A.json B.json")
def compare(first: Table, second: Table, picture: Picture = None, json: Json = False) -> None:
    """In what two tables of one space differ: level, ranking, and layers once levels agree."""
    with console.session(json) as show:
        from hwautoml.pipeline import compare_tables as verb

        show.result(verb(first, second, picture=picture), table_summaries.comparison_summary)


@tables_app.command("merge", epilog="Example: hwautoml tables merge A.json B.json --out BOTH.json")
def merge(
    first: Table,
    second: Table,
    out: Annotated[Path, typer.Option(help="File for the joined table.")],
    json: Json = False,
) -> None:
    """Join two tables of the same kind: networks are joined, layers averaged by how sure each table is."""
    with console.session(json) as show:
        from hwautoml.pipeline import merge_tables as verb

        show.result(verb(first, second, out=out), table_summaries.facts_summary)


@tables_app.command("estimate", epilog="Example: hwautoml tables estimate --target rpi4")
def estimate(
    target: Target = "cpu",
    space: Space = "mobile",
    image_size: ImageSize = None,
    channels: Channels = None,
    runtime: TableRuntime = "auto",
    threads: Threads = None,
    batch: Batch = 1,
    precision: Precision = "fp32",
    like: Like = None,
    out: TableOut = None,
    targets_dir: TargetsDir = None,
    profiles_dir: ProfilesDir = None,
    json: Json = False,
) -> None:
    """A table without any measurement: from the target's datasheet, or with --like from other devices' tables.

    Good for ranking networks, off by a factor in level; whatever is shown from it says that it is estimated.
    """
    with console.session(json) as show:
        from hwautoml.pipeline import estimate_table as verb

        result = verb(
            target=target,
            space=space,
            image_size=image_size,
            channels=channels_of(channels),
            runtime=runtime,
            threads=threads,
            batch=batch,
            precision=precision,
            like=names_of(like),
            out=out,
            targets_dir=targets_dir,
            profiles_dir=profiles_dir,
        )
        show.result(result, table_summaries.facts_summary)


@tables_app.command("export", epilog="Example: hwautoml tables export DIR --target rpi4 --measurements 10")
def export(
    folder: Annotated[Path, typer.Argument(help="Folder for the networks, the CSV and a README on how to time them.")],
    target: Target = "cpu",
    space: Space = "mobile",
    image_size: ImageSize = None,
    channels: Channels = None,
    runtime: TableRuntime = "auto",
    threads: Threads = None,
    batch: Batch = 1,
    precision: Precision = "fp32",
    like: Like = None,
    measurements: Annotated[int, typer.Option(help="How many networks, the most telling ones.")] = 10,
    seed: Seed = 0,
    targets_dir: TargetsDir = None,
    profiles_dir: ProfilesDir = None,
    json: Json = False,
) -> None:
    """Write networks for somebody who has the device to time by hand, and a CSV to fill in.

    hwautoml tables import makes the table of what was filled in; the README in the folder has the whole command.
    """
    with console.session(json) as show:
        from hwautoml.pipeline import export_networks as verb

        result = verb(
            folder,
            target=target,
            space=space,
            image_size=image_size,
            channels=channels_of(channels),
            runtime=runtime,
            threads=threads,
            batch=batch,
            precision=precision,
            like=names_of(like),
            measurements=measurements,
            seed=seed,
            targets_dir=targets_dir,
            profiles_dir=profiles_dir,
        )
        show.result(result, table_summaries.export_summary)


@tables_app.command("import", epilog="Example: hwautoml tables import DIR/measurements.csv --target rpi4")
def import_(
    csv: Annotated[Path, typer.Argument(help="The CSV that hwautoml tables export wrote, filled in.")],
    target: Target = "cpu",
    space: Space = "mobile",
    image_size: ImageSize = None,
    channels: Channels = None,
    runtime: TableRuntime = "auto",
    threads: Threads = None,
    batch: Batch = 1,
    precision: Precision = "fp32",
    like: Like = None,
    out: TableOut = None,
    targets_dir: TargetsDir = None,
    profiles_dir: ProfilesDir = None,
    json: Json = False,
) -> None:
    """Make the table of a device from latencies that were measured on it by hand.

    --like names the devices whose tables these latencies correct; without it, the datasheet is corrected.
    """
    with console.session(json) as show:
        from hwautoml.pipeline import import_table as verb

        result = verb(
            csv,
            target=target,
            space=space,
            image_size=image_size,
            channels=channels_of(channels),
            runtime=runtime,
            threads=threads,
            batch=batch,
            precision=precision,
            like=names_of(like),
            out=out,
            targets_dir=targets_dir,
            profiles_dir=profiles_dir,
        )
        show.result(result, table_summaries.facts_summary)
