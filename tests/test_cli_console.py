from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from rich.console import Console
from typer.testing import Result

from hwautoml import pipeline
from hwautoml.cli import console
from hwautoml.cli.summaries import bench_summary
from hwautoml.core.progress import Progress
from tests.invoking import invoke


@pytest.fixture(autouse=True)
def sigterm() -> Iterator[None]:
    """Commands install a handler of their own."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def interrupted(monkeypatch: pytest.MonkeyPatch, *words: str) -> Result:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, words[0], stop)
    return invoke(*words)


def test_an_interrupted_run_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = ["--out", "runs/x", "--targets-dir", "t", "--profiles-dir", "p"]
    result = interrupted(monkeypatch, "run", "my photos", "--latency-ms", "1", *folders)
    assert result.exit_code == 130 and result.stdout == ""
    expected = "go on with: hwautoml run 'my photos' --resume --out runs/x --targets-dir t --profiles-dir p"
    assert expected in " ".join(result.stderr.split())


def test_an_interrupted_profile_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    result = interrupted(monkeypatch, "profile")
    assert result.exit_code == 130
    assert "the same command goes on" in " ".join(result.stderr.split())


def test_progress_in_a_log_says_how_long_it_will_take(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    now = iter([0.0, 30.0, 60.0, 90.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    show = console.Show(as_json=False)
    for share in (0.5, 0.6, 0.7, 1.0):  # resumed half-way: a tenth takes 30 seconds
        show.progress(Progress("profile", share, "layers"))
    assert capsys.readouterr().err.splitlines() == [
        "profile 50% layers",
        "profile 60% layers (about 2m00s left)",
        "profile 70% layers (about 1m30s left)",
        "profile 100% layers",
    ]


def test_termination_ends_like_an_interruption(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end, console.session(False, resume_hint="go on"):
        os.kill(os.getpid(), signal.SIGTERM)
        signal.sigtimedwait([], 5)
    assert end.value.code == console.EXIT_INTERRUPTED
    assert "interrupted; go on" in capsys.readouterr().err


def test_a_reader_that_has_gone_is_no_crash() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "hwautoml.cli", "targets", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait() == 141
    assert "Traceback" not in errors and "BrokenPipe" not in errors


def test_bench_never_calls_an_emulators_times_measured(capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "artifact": "a.onnx",
        "runtime": "tvm",
        "threads": 1,
        "batch": 1,
        "median_ms": 2.0,
        "interval_ms": [1.9, 2.1],
        "p95_ms": None,
        "throughput": 500.0,
        "load_ms": 1.0,
        "peak_memory_mb": None,
        "size_mb": 0.1,
    }
    for origin in ("measured", "emulated"):
        rows = [row | {"origin": origin}]
        bench_summary(Console(width=200), {"target": "rpi4", "rows": rows, "skipped": [], "against": None})
        said = capsys.readouterr().out
        assert f"all {origin}" in said and ("measured" in said) == (origin == "measured")
