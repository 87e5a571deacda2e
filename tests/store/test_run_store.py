from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hwautoml.core.space import Architecture
from hwautoml.errors import RunFolderError
from hwautoml.spaces.mobile import MobileSpace
from hwautoml.store.run_store import Evaluation, RunStore

SPACE = MobileSpace(8, 1, 3)

# Adds evaluations for ever and says of each that it is written.
WRITER = """
import sys
from pathlib import Path
import numpy as np
from hwautoml.spaces.mobile import MobileSpace
from hwautoml.store.run_store import Evaluation, RunStore
space, rng = MobileSpace(8, 1, 3), np.random.default_rng(0)
with RunStore(Path(sys.argv[1]), create=True) as store:
    while True:
        architecture = space.sample(rng)
        store.add_evaluation(Evaluation(architecture, "supernet", "val", rng.integers(0, 99, (3, 3)), 0.1))
        print(architecture.id, flush=True)
"""


def sample(seed: int) -> Architecture:
    return SPACE.sample(np.random.default_rng(seed))


def evaluation(seed: int, weights: str = "supernet", split: str = "val") -> Evaluation:
    return Evaluation(sample(seed), weights, split, np.random.default_rng(seed).integers(0, 99, (3, 3)), 0.5 + seed)


@pytest.fixture
def writer(tmp_path: Path):  # type: ignore[no-untyped-def]
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_settings_survive_closing(tmp_path: Path) -> None:
    with RunStore(tmp_path / "a" / "run", create=True) as store:
        store.set_setting("plan", {"train": 1.5, "names": ["größer"]})
        store.set_setting("plan", {"train": 2.5, "names": ["größer"]})
    with RunStore(tmp_path / "a" / "run") as store:
        assert store.setting("plan") == {"train": 2.5, "names": ["größer"]}
        assert store.setting("nothing") is None
        assert store.setting("nothing", 3) == 3


def test_a_stage_is_finished_with_its_seconds_or_not_at_all(tmp_path: Path) -> None:
    with RunStore(tmp_path, create=True) as store:
        assert store.stage("train") is None
        store.finish_stage("train", 12.5, {"steps": 7})
        assert store.stage("train") == {"steps": 7, "seconds": 12.5}
        store.finish_stage("search", 1.0, {})
        store.forget_stages(("train", "never was"))
        assert store.stage("train") is None and store.stage("search") == {"seconds": 1.0}


def test_evaluations_come_back_exactly_and_in_order(tmp_path: Path) -> None:
    made = [evaluation(seed) for seed in (5, 3, 9, 1)]
    with RunStore(tmp_path, create=True) as store:
        for one in made:
            store.add_evaluation(one)
        store.add_evaluation(evaluation(5, weights="fine-tuned"))
        store.add_evaluation(evaluation(5, split="test"))
    with RunStore(tmp_path) as store:
        found = store.evaluations(SPACE, weights="supernet", split="val")
    assert [e.architecture for e in found] == [e.architecture for e in made]
    for before, after in zip(made, found, strict=True):
        assert np.array_equal(before.outcome, after.outcome) and after.outcome.dtype == np.int64
        assert (after.weights, after.split, after.seconds) == ("supernet", "val", before.seconds)


def test_an_evaluation_made_again_replaces_the_old_one(tmp_path: Path) -> None:
    with RunStore(tmp_path, create=True) as store:
        store.add_evaluation(evaluation(1))
        store.add_evaluation(Evaluation(sample(1), "supernet", "val", np.eye(3, dtype=np.int64), 9.0))
        (found,) = store.evaluations(SPACE, weights="supernet", split="val")
    assert np.array_equal(found.outcome, np.eye(3)) and found.seconds == 9.0


@pytest.mark.parametrize(
    "outcome", [np.float64(0.5), np.zeros((0, 3), np.float16), np.array([True]), np.eye(2)[:, ::-1]]
)
def test_an_outcome_may_be_any_array(tmp_path: Path, outcome: np.ndarray) -> None:
    """What it means is the task's business."""
    with RunStore(tmp_path, create=True) as store:
        store.add_evaluation(Evaluation(sample(1), "supernet", "val", outcome, 1.0))
        (found,) = store.evaluations(SPACE, weights="supernet", split="val")
    assert found.outcome.dtype == outcome.dtype and np.array_equal(found.outcome, outcome)


def test_measurements_come_back_oldest_first(tmp_path: Path) -> None:
    with RunStore(tmp_path, create=True) as store:
        for index in range(3):
            store.add_measurement("abc", "cpu", "tvm", {"samples_ms": [0.1, index]})
        store.add_measurement("abc", "cpu", "onnxruntime", {})
        store.add_measurement("abc", "gpu", "tvm", {})
        found = store.measurements("cpu", "tvm")
    assert found == [("abc", {"samples_ms": [0.1, index]}) for index in range(3)]


def test_whatever_a_killed_writer_reported_is_there(tmp_path: Path, writer: subprocess.Popen) -> None:
    reported = [writer.stdout.readline().strip() for _ in range(5)]
    time.sleep(0.1)
    writer.send_signal(signal.SIGKILL)
    reported += writer.communicate()[0].split("\n")[:-1]
    assert writer.returncode == -signal.SIGKILL
    with RunStore(tmp_path) as store:
        found = store.evaluations(SPACE, weights="supernet", split="val")
        store.add_evaluation(evaluation(123))  # and the journal can be written on
    ids = [e.architecture.id for e in found]
    assert len(set(reported)) >= 5 and set(reported) <= set(ids)
    assert len(set(ids) - set(reported)) <= 1, "at most the one that was written and not yet reported"
    assert all(e.outcome.shape == (3, 3) for e in found)


def test_a_second_process_is_refused_while_the_first_is_at_work(tmp_path: Path, writer: subprocess.Popen) -> None:
    writer.stdout.readline()
    with pytest.raises(RunFolderError, match=f"{tmp_path} is in use by process {writer.pid}") as caught:
        RunStore(tmp_path)
    assert f"kill {writer.pid}" in (caught.value.fix or "")
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    RunStore(tmp_path).close()


def test_the_lock_ends_with_the_store(tmp_path: Path) -> None:
    with RunStore(tmp_path, create=True), pytest.raises(RunFolderError, match=f"in use by process {os.getpid()}"):
        RunStore(tmp_path)
    with RunStore(tmp_path):
        assert (tmp_path / ".lock").read_text(encoding="utf-8") == str(os.getpid())


def test_the_lock_ends_with_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunStore(tmp_path, create=True):
        raise ZeroDivisionError
    RunStore(tmp_path).close()


def test_a_folder_without_a_journal_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"holds no run \(no journal.sqlite\)") as caught:
        RunStore(tmp_path)
    assert f"--out {tmp_path}" in (caught.value.fix or "")
    assert list(tmp_path.iterdir()) == [], "looking leaves nothing behind"
    with pytest.raises(RunFolderError, match="holds no run"):
        RunStore(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"this is no database " * 100, b"SQLite format 3\x00" + b"\xff" * 4000])
def test_a_damaged_journal_is_refused_and_the_folder_let_go(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "journal.sqlite").write_bytes(content)
    for _ in range(2):  # the second time the lock must be free again
        with pytest.raises(RunFolderError, match=r"journal.sqlite is damaged: .+"):
            RunStore(tmp_path)


def test_another_schema_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    with RunStore(tmp_path, create=True) as store:
        store.set_setting("schema", 99)
    for _ in range(2):
        with pytest.raises(RunFolderError, match=r"made by a version with journal schema 99, this one reads up to 2"):
            RunStore(tmp_path)
    with sqlite3.connect(tmp_path / "journal.sqlite") as db:
        (value,) = db.execute("SELECT value FROM settings WHERE key = 'schema'").fetchone()
    assert json.loads(value) == 99
