from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from hwautoml.core.progress import Progress
from hwautoml.pipeline.runs.context import RunContext
from hwautoml.pipeline.runs.journal import Journal
from hwautoml.pipeline.runs.outcomes import Searched, Trained

MakeRun = Callable[..., RunContext]


def test_a_stage_is_done_once_and_keeps_what_it_found_and_its_seconds(make_run: MakeRun) -> None:
    events: list[Progress] = []
    run = replace(make_run(), on_progress=events.append)

    def train() -> Trained:
        time.sleep(0.05)
        return Trained(steps=7)

    assert run.once(Trained, train) == Trained(steps=7)
    assert 0.05 <= run.journal.seconds("train") < 5
    assert events == [Progress("train", 0.0, ""), Progress("train", 1.0, "")]
    assert run.once(Trained, lambda: Trained(steps=8)) == Trained(steps=7), "read from the journal"


def test_an_interrupted_stage_is_not_finished_but_its_seconds_count(make_run: MakeRun) -> None:
    run = make_run()

    def interrupted() -> Trained:
        time.sleep(0.1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.once(Trained, interrupted)
    assert run.journal.outcome(Trained) is None
    assert run.once(Trained, Trained) == Trained()
    assert run.journal.seconds("train") >= 0.1


def test_elapsed_time_adds_up_over_sessions(make_run: MakeRun) -> None:
    journal = make_run().journal
    time.sleep(0.05)
    journal.save_elapsed()
    first = journal.store.setting("elapsed_sec")
    assert first >= 0.05
    later = Journal(journal.store)
    assert first <= later.elapsed_sec < first + 5
    time.sleep(0.05)
    later.save_elapsed()
    assert journal.store.setting("elapsed_sec") >= first + 0.05


def test_a_session_that_is_killed_has_told_its_time_by_then(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stage it is in: with every report of progress, but not with each of thousands."""
    run = make_run()
    run.report("profile", 0.1)
    assert run.journal.store.setting("elapsed_sec") is None
    monkeypatch.setattr(run.journal, "_since", time.monotonic() - 60.0)
    run.report("profile", 0.2)
    assert run.journal.store.setting("elapsed_sec") >= 60.0


@pytest.mark.parametrize("wanted", ["auto", "onnxruntime"])
def test_a_run_uses_the_runtime_it_was_asked_for_or_all(make_run: MakeRun, wanted: str) -> None:
    runtimes = make_run(runtime=wanted).runtimes
    assert runtimes == ("onnxruntime",) if wanted != "auto" else "onnxruntime" in runtimes


def test_a_stage_whose_file_was_damaged_is_done_again_with_all_that_followed(
    make_run: MakeRun, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run()
    path = run.folder / "weights.bin"
    tries: list[int] = []

    def train() -> Trained:
        tries.append(1)
        path.write_bytes(b"good")
        return Trained(steps=len(tries))

    def trained() -> Trained:
        return run.once(Trained, train, lambda _: [path])

    trained()
    run.once(Searched, lambda: Searched(3))
    assert trained() == Trained(steps=1) and run.journal.outcome(Searched) is not None
    path.write_bytes(b"goOd")
    assert trained() == Trained(steps=2), "a flipped bit"
    assert run.journal.outcome(Searched) is None and "is done again" in caplog.text
    assert (run.folder / "weights.bin.damaged").read_bytes() == b"goOd"
    path.unlink()
    assert trained() == Trained(steps=3), "a missing file"
