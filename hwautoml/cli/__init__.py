"""The command line: one subcommand per verb of ``pipeline``, whose flags are the verb's arguments.

Results go to stdout (with ``--json`` one object and nothing else), everything else to stderr.
Nothing heavy is imported before a verb runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from hwautoml.cli import console
from hwautoml.cli.options import app

# In this order --help lists the commands.
from hwautoml.cli import running, checking_data, profiling, tables, latency, tuning, deploying, boards  # isort: skip

__all__ = ["app", "boards", "checking_data", "deploying", "latency", "main", "profiling", "running", "tables", "tuning"]


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is going on to stderr.")] = False,
) -> None:
    console.set_up_logging(verbose)
    if version:
        from hwautoml import __version__

        console.print_line(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point of the ``hwautoml`` program."""
    app()
