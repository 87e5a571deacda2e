from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from hwautoml.core.progress import Progress
from hwautoml.pipeline.runs.job import Job


def test_a_stage_keeps_what_it_was_given_and_its_seconds(make_job: Callable[..., Job]) -> None:
    job, events = make_job(), []
    job.on_progress = events.append
    with job.timed_stage("train") as payload:
        payload["steps"] = 7
        time.sleep(0.05)
    found = job.store.stage("train")
    assert found is not None and found["steps"] == 7 and 0.05 <= found["seconds"] < 5
    assert events == [Progress("train", 0.0, ""), Progress("train", 1.0, "")]


def test_an_interrupted_stage_is_not_finished_but_its_seconds_count(make_job: Callable[..., Job]) -> None:
    job = make_job()
    with pytest.raises(KeyboardInterrupt), job.timed_stage("train"):
        time.sleep(0.1)
        raise KeyboardInterrupt
    assert job.store.stage("train") is None
    with job.timed_stage("train"):
        time.sleep(0.05)
    assert job.store.stage("train")["seconds"] >= 0.15  # type: ignore[index]


def test_elapsed_time_adds_up_over_sessions(make_job: Callable[..., Job]) -> None:
    job = make_job()
    time.sleep(0.05)
    job.save_elapsed()
    first = job.store.setting("elapsed_sec")
    assert first >= 0.05
    later = Job(job.store, job.settings, job.target, job.on_progress)
    assert first <= later.elapsed_sec < first + 5
    time.sleep(0.05)
    later.save_elapsed()
    assert job.store.setting("elapsed_sec") >= first + 0.05


@pytest.mark.parametrize("wanted", ["auto", "onnxruntime"])
def test_a_run_uses_the_runtime_it_was_asked_for_or_all(make_job: Callable[..., Job], wanted: str) -> None:
    runtimes = make_job(runtime=wanted).runtimes
    assert runtimes == ("onnxruntime",) if wanted != "auto" else "onnxruntime" in runtimes
