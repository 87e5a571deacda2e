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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwautoml.core.duration import format_duration
from hwautoml.core.progress import Progress
from hwautoml.errors import HwAutoMLError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from hwautoml.core.latency_table import LatencyTable

EXIT_INTERRUPTED = 130
LOG_EVERY_SEC = 20.0
Summary = Callable[["Console", Mapping[str, Any]], None]


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
            TextColumn("{task.fields[text]}", style="dim"),
            console=self.errors,
            disable=not self.errors.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._announced: dict[str, float] = {}

    def progress(self, event: Progress) -> None:
        if self.bars.disable:
            self._announce(event)
            return
        if event.stage not in self._tasks:
            self._tasks[event.stage] = self.bars.add_task(event.stage, total=1.0, text="")
        fields = {"text": event.text} if event.text else {}
        self.bars.update(self._tasks[event.stage], completed=event.share, **fields)

    def result(self, data: Mapping[str, Any], summary: Summary) -> None:
        self.bars.stop()
        if self.as_json:
            sys.stdout.write(json_module.dumps(data, indent=1, default=str) + "\n")
            sys.stdout.flush()
            return
        from rich.console import Console

        summary(Console(highlight=False), data)

    def _announce(self, event: Progress) -> None:
        """In a log file: a line when a stage begins, and a line now and then."""
        now = time.monotonic()
        if now - self._announced.get(event.stage, -LOG_EVERY_SEC) >= LOG_EVERY_SEC:
            self._announced[event.stage] = now
            self.errors.print(f"{event.stage} {event.share:.0%} {event.text}".rstrip(), markup=False)


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
        show.errors.print(f"[bold red]error:[/bold red] {_escape(str(error))}", soft_wrap=True)
        code = error.exit_code
    except KeyboardInterrupt:
        show.errors.print("[bold]interrupted[/bold]" + (f"; {_escape(resume_hint)}" if resume_hint else ""))
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (| head); there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    if code:
        sys.exit(code)


def set_up_logging(verbose: bool) -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s: %(message)s"
    )


def print_line(text: str) -> None:
    sys.stdout.write(text + "\n")


def run_summary(out: Console, result: Mapping[str, Any]) -> None:
    latency, seconds, parity = result["latency_ms"], result["seconds"], result["parity"]
    rows = [("limit", f"{latency['limit']:g} ms on {result['target']}")]
    for runtime, figures in sorted(latency["by_runtime"].items(), key=lambda item: item[1]["median_ms"]):
        name = "latency" if runtime == result["runtime"] else ""
        rows.append((name, f"{_with_interval(figures['median_ms'], figures['interval_ms'], 'measured')} on {runtime}"))
    predicted = _with_interval(latency["predicted"], latency["predicted_interval"], latency["predicted_origin"])
    by_stage = ", ".join(f"{name} {format_duration(s)}" for name, s in seconds.items() if name != "total" and s >= 0.5)
    rows += [
        ("", f"{predicted} on {latency['predicted_runtime']}"),
        ("accuracy", f"{result['accuracy']['test']:.2%} test, {result['accuracy']['val']:.2%} validation"),
        ("network", f"{result['architecture']['id']}, one of {len(result['front'])} on the front"),
        (
            "parity",
            f"ONNX {_exponent(parity['onnx_max_abs'])}, TVM {_exponent(parity['tvm_max_abs'])}, "
            f"same class on {parity['top1_agreement']:.1%} of {parity['num_images']} images",
        ),
        ("time", f"{format_duration(seconds['total'])} of {format_duration(result['budget_sec'])}: {by_stage}"),
        ("bundle", f"{result['bundle']}   (try: python {result['bundle']}/run.py IMAGE)"),
        ("report", result["report"]),
    ]
    _print_pairs(out, rows)


def search_summary(out: Console, result: Mapping[str, Any]) -> None:
    table = _table("id", "accuracy (val)", f"latency ({result['latency_origin']})", "within the limit")
    for row in result["front"]:
        table.add_row(
            row["id"],
            f"{row['accuracy_val']:.2%}",
            f"{row['latency_ms']:.4g} +- {1.96 * row['latency_std_ms']:.2g} ms",
            "yes" if row["meets_limit"] else "no",
        )
    out.print(table)
    best = result["best"]
    text = (
        "nothing scored is predicted to meet it" if best is None else f"best {best['id']}, {best['accuracy_val']:.2%}"
    )
    out.print(
        f"{result['target']} ({', '.join(result['runtimes'])}), limit {result['limit_ms']:g} ms: {text}; "
        f"{result['num_scored']} scored, {result['num_new']} of them new, {result['seconds']:.1f} s"
    )


def profile_summary(out: Console, facts: Mapping[str, Any]) -> None:
    holdout = facts["holdout"] or {}
    check = (
        f"{holdout['mean_relative_error']:.1%} mean error on {holdout['num_networks']} unseen networks"
        if holdout
        else "none"
    )
    _print_pairs(
        out,
        [
            ("table", facts["path"]),
            ("layers", f"{facts['num_measured']} measured, {facts['num_inferred']} inferred"),
            ("networks", f"{facts['num_networks']} measured"),
            ("check", f"{check} (predicted before measured)"),
            (
                "noise",
                "unknown" if facts["noise_floor"] is None else f"{facts['noise_floor']:.1%} of a sample (measured)",
            ),
        ],
    )


def table_facts(table: LatencyTable, path: Path) -> dict[str, Any]:
    origins = [entry.origin for entry in table.entries.values()]
    return {
        "path": str(path),
        "target": table.target,
        "runtime": table.runtime,
        "space": table.space,
        "num_measured": origins.count("measured"),
        "num_inferred": origins.count("inferred"),
        "num_networks": len(table.observations),
        "holdout": table.conditions.get("holdout"),
        "noise_floor": table.conditions.get("noise_floor_relative"),
        "conditions": dict(table.conditions),
    }


def export_summary(out: Console, result: Mapping[str, Any]) -> None:
    _print_pairs(
        out,
        [
            ("file", result["path"]),
            ("weights", result["weights"]),
            ("parity", f"{_exponent(result['parity']['max_abs'])} over {result['parity']['num_images']} images"),
        ],
    )


def compile_summary(out: Console, result: Mapping[str, Any]) -> None:
    parity = result["parity"]
    seconds = result["seconds"]
    _print_pairs(
        out,
        [
            ("library", result["path"]),
            (
                "functions",
                f"{result['functions']}, {result['tuned']} tuned, {len(result['fallbacks'])} on a fallback schedule",
            ),
            ("fallbacks", ", ".join(result["fallbacks"]) or "none"),
            (
                "parity",
                parity if isinstance(parity, str) else f"{_exponent(parity['max_relative'])} of the outputs' scale",
            ),
            ("time", f"compile {seconds['compile']:.1f} s, tune {seconds['tune']:.1f} s"),
        ],
    )


def bench_summary(out: Console, result: Mapping[str, Any]) -> None:
    table = _table(
        "artifact",
        "runtime",
        "threads",
        "median ms (measured)",
        "95 % interval",
        "p95",
        "per second",
        "load ms",
        "size MB",
    )
    for row in result["rows"]:
        low, high = row["interval_ms"]
        table.add_row(
            row["artifact"],
            row["runtime"],
            str(row["threads"]),
            f"{row['median_ms']:.4g}",
            f"{low:.4g} to {high:.4g}",
            "-" if row["p95_ms"] is None else f"{row['p95_ms']:.4g}",
            f"{row['throughput']:,.0f}",
            "-" if row["load_ms"] is None else f"{row['load_ms']:.1f}",
            f"{row['size_mb']:.2f}",
        )
    out.print(table)
    for reason in result["skipped"]:
        out.print(f"skipped: {reason}")


def report_summary(out: Console, result: Mapping[str, Any]) -> None:
    _print_pairs(out, list(result.items()))


def targets_summary(out: Console, result: Mapping[str, Any]) -> None:
    if "targets" not in result:
        _print_pairs(out, [(name, str(value)) for name, value in result.items()])
        return
    table = _table("target", "kind", "runtimes", "works here", "description")
    for row in result["targets"]:
        works = "yes: " + ", ".join(row["usable_runtimes"]) if row["works_here"] else f"no: {row['reason']}"
        table.add_row(row["name"], row["kind"], ", ".join(row["runtimes"]), works, row["description"])
    out.print(table)


def doctor_summary(out: Console, result: Mapping[str, Any]) -> None:
    machine = result["machine"]
    out.print(f"hwautoml {result['hwautoml']} on {machine['cpu']}, {machine['num_allowed_cores']} cores")
    for check in result["checks"]:
        mark = "[green]ok[/green]     " if check["ok"] else "[yellow]missing[/yellow]"
        out.print(f"  {mark} {check['name']}: {_escape(check['text'])}")


def _raise_interrupt() -> None:
    raise KeyboardInterrupt


def _print_pairs(out: Console, rows: list[tuple[str, str]]) -> None:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for name, text in rows:
        table.add_row(f"[bold]{name}[/bold]", _escape(str(text)))
    out.print(table)


def _with_interval(milliseconds: float, interval: Sequence[float], origin: str) -> str:
    return f"{milliseconds:.4g} ms ({origin}, 95 % {interval[0]:.4g} to {interval[1]:.4g})"


def _table(*columns: str) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _exponent(value: float | None) -> str:
    return "not checked" if value is None else f"{value:.1e}"


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
