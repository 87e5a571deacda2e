"""What a terminal shows: progress on stderr, results on stdout, errors with their exit code.

Rich is imported when something is shown, not before.
"""

from __future__ import annotations

import json as json_module
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from hwautoml.core.duration import format_duration
from hwautoml.core.progress import Progress
from hwautoml.core.shown import shown, shown_text
from hwautoml.core.storage import storage_error
from hwautoml.errors import HwAutoMLError, StorageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID


EXIT_INTERRUPTED = 130
LOG_EVERY_SEC = 20.0
WIDTH_OF_LOGS = 160


class HasJson(Protocol):
    def to_json(self) -> Mapping[str, Any]: ...


Found = TypeVar("Found", bound=Mapping[str, Any] | HasJson)


class Show:
    """Progress bars with an ETA on stderr, and the verb's result on stdout."""

    def __init__(self, as_json: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self.as_json = as_json
        self.errors = Console(stderr=True, highlight=False)
        self.bars = Bars(
            TextColumn("[bold]{task.description:<10}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}", style="dim", markup=False),
            console=self.errors,
            disable=not self.errors.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._announced: dict[str, float] = {}
        self._began: dict[str, tuple[float, float]] = {}  # when a stage was first heard of, and its share then

    def progress(self, event: Progress) -> None:
        if self.bars.disable:
            self._announce(event)
            return
        if event.stage not in self._tasks:
            self._tasks[event.stage] = self.bars.add_task(event.stage, total=1.0, text="")
        task = self._tasks[event.stage]
        self.bars.update(task, completed=event.share)
        if event.text:
            self.bars.update(task, text=shown(event.text))

    def result(self, found: Found, summary: Callable[[Console, Found], None]) -> None:
        """A verb's result: its JSON form on stdout with ``--json``, else its summary for people."""
        self.bars.stop()
        if self.as_json:
            data = found if isinstance(found, Mapping) else found.to_json()
            sys.stdout.write(json_module.dumps(data, indent=1, default=str) + "\n")
            sys.stdout.flush()
            return
        from rich.console import Console

        # In a pipe or a log nothing is folded, so that rows stay lines.
        summary(Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH_OF_LOGS), found)

    def error(self, error: HwAutoMLError, resume_hint: str | None) -> int:
        """Shows it, and how to go on where something outside stopped the work; returns the process's exit code."""
        self.errors.print(f"[bold red]error:[/bold red] {escape_markup(str(error))}", soft_wrap=True)
        if isinstance(error, StorageError) and error.is_full and resume_hint:
            self.errors.print(f"  {escape_markup(resume_hint)}", soft_wrap=True)
        return error.exit_code

    def _announce(self, event: Progress) -> None:
        """In a log file: a line when a stage begins, and a line now and then."""
        now = time.monotonic()
        then, share = self._began.setdefault(event.stage, (now, event.share))
        left = (now - then) * (1 - event.share) / (event.share - share) if event.share > share else None
        eta = "" if left is None or event.share >= 1 else f"(about {format_duration(left)} left)"
        if now - self._announced.get(event.stage, -LOG_EVERY_SEC) >= LOG_EVERY_SEC:
            self._announced[event.stage] = now
            parts = (f"{event.stage} {event.share:.0%}", shown(event.text), eta)
            self.errors.print(" ".join(filter(None, parts)), markup=False)


@contextmanager
def session(as_json: bool, resume_hint: str | None = None) -> Iterator[Show]:
    """Errors of the family end the process with their code; Ctrl-C and SIGTERM with 130, and a hint."""
    show = Show(as_json)
    # A terminated run saves its state like an interrupted one.
    signal.signal(signal.SIGTERM, lambda *_: _raise_interrupt())
    code = 0
    try:
        with show.bars:
            yield show
    except HwAutoMLError as error:
        code = show.error(error, resume_hint)
    except KeyboardInterrupt:
        show.errors.print("[bold]interrupted[/bold]" + (f"; {escape_markup(resume_hint)}" if resume_hint else ""))
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (| head); there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except OSError as error:
        found = storage_error(error)
        if found is None:
            raise
        code = show.error(found, resume_hint)
    if code:
        sys.exit(code)


def set_up_logging(verbose: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])


class _Formatter(logging.Formatter):
    """Messages name files, whose names may hold anything."""

    def format(self, record: logging.LogRecord) -> str:
        return shown_text(super().format(record))


def print_line(text: str) -> None:
    sys.stdout.write(text + "\n")


def _raise_interrupt() -> None:
    raise KeyboardInterrupt


def escape_markup(text: str) -> str:
    """Text from elsewhere for rich: it neither colours nor steers the terminal."""
    from rich.markup import escape

    return escape(shown_text(text))
