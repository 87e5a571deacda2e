"""Names from elsewhere on the terminal: neither markup, nor escapes, nor more lines than there are messages."""

from __future__ import annotations

import io
import logging
import subprocess
import sys

import pytest
from rich.console import Console

from hwautoml.cli import console
from hwautoml.cli.summaries import bench_summary, targets_summary, verify_summary
from hwautoml.core.progress import Progress
from hwautoml.errors import DatasetError
from hwautoml.pipeline.verbs.verifying import BundleCheck, VerifyResult

HOSTILE = "a\x1b[31m[/x][bold]\u202eb\udcff"
SAFE = "a\\x1b[31m[/x][bold]\\u202eb\\xff"


def test_errors_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.Show(as_json=False).error(DatasetError(f"no {HOSTILE}", fix="rename it"), None) == 3
    assert capsys.readouterr().err == f"error: no {SAFE}\n  fix: rename it\n"


def test_progress_takes_any_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    show = console.Show(as_json=False)
    show.progress(Progress("data", 0.5, HOSTILE + "\nsecond"))
    assert capsys.readouterr().err == f"data 50% {SAFE}\\nsecond\n"
    monkeypatch.setenv("TERM", "xterm")
    on_terminal = console.Show(as_json=False)
    on_terminal.bars = type(on_terminal.bars)(
        *on_terminal.bars.columns, console=Console(file=(seen := io.StringIO()), force_terminal=True, width=200)
    )
    with on_terminal.bars:
        on_terminal.progress(Progress("data", 0.5, HOSTILE))
    assert SAFE in seen.getvalue() and "\x1b[31m[/x]" not in seen.getvalue()


def test_warnings_are_shown_as_they_are() -> None:
    record = logging.LogRecord("x", logging.WARNING, "", 0, "skipped %s", (HOSTILE,), None)
    assert console._Formatter("%(levelname)s: %(message)s").format(record) == f"WARNING: skipped {SAFE}"


def test_summaries_take_any_text() -> None:
    out = Console(file=(seen := io.StringIO()), width=300, highlight=False)
    verify_summary(out, VerifyResult("b", "a", "0", (BundleCheck("files", "failed", HOSTILE),)))
    row = {
        "name": HOSTILE,
        "kind": "cpu",
        "runtimes": [],
        "works_here": False,
        "reason": HOSTILE,
        "description": HOSTILE,
    }
    targets_summary(out, {"targets": [row]})
    figures = dict.fromkeys(("median_ms", "throughput", "size_mb"), 1.0) | {"interval_ms": [1.0, 1.0], "batch": 1}
    figures |= {"p95_ms": None, "load_ms": None, "peak_memory_mb": None, "origin": "measured", "threads": 1}
    bench_summary(
        out,
        {
            "target": HOSTILE,
            "rows": [{"artifact": HOSTILE, "runtime": "tvm", **figures}],
            "skipped": [HOSTILE],
            "against": None,
        },
    )
    text = seen.getvalue()
    assert text.count(SAFE) == 7 and "\x1b" not in text and "\u202e" not in text


def test_a_name_that_is_no_utf8_is_an_error_and_no_traceback() -> None:
    """Also where standard output cannot hold it."""
    command = [sys.executable, "-m", "hwautoml.cli", "run", b"/nowhere/\xff\x1b[31m", "--latency-ms", "1"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    assert done.returncode == 3 and "Traceback" not in done.stderr and "\x1b" not in done.stderr
    assert "no such file or folder: /nowhere/\\xff\\x1b[31m" in done.stderr
