"""What ``run`` refuses before it spends anything; whole runs are in test_whole_runs.py."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwautoml.core.plan import make_plan
from hwautoml.errors import (
    DatasetError,
    InfeasibleLimitError,
    InvalidValueError,
    RunFolderError,
    TargetUnavailableError,
    UnknownNameError,
    UnknownTargetError,
)
from hwautoml.pipeline import run
from hwautoml.pipeline.runs.settings import RunSettings
from hwautoml.pipeline.verbs.running import _run_folder
from hwautoml.store.run_store import RunStore

IMPOSSIBLE_MS = 1e-6
PLAN = make_plan(60.0, 1.0, False, 1.0)
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images.npz", seed=0)


@pytest.fixture
def refused(tmp_path: Path, profiles_dir: Path, images: Path) -> Callable[..., None]:
    """A run in tmp_path/run whose limit nothing can meet: it ends before training."""

    def start(**changes: Any) -> None:
        given = {"source": str(images), "latency_ms": IMPOSSIBLE_MS, "runtime": "onnxruntime", "budget_sec": 30.0}
        run(**{**given, "out": tmp_path / "run", "profiles_dir": profiles_dir, **changes})

    return start


def write_images(path: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    np.savez(path, x=rng.integers(0, 256, (60, 8, 8), dtype=np.uint8), y=np.arange(60) % 3)
    return path


def started(folder: Path, **changes: Any) -> Path:
    """A run that has begun to train."""
    settings = RunSettings(**{"source": "digits", "target": "cpu", "latency_ms": 1.0, **changes})
    with RunStore(folder, create=True) as store:
        store.set_setting("settings", settings.to_json())
        store.set_setting("plan", PLAN.to_json())
    return folder


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"source": "digits"}, InvalidValueError, "name the latency limit in ms\n  fix: --latency-ms 1"),
        ({"latency_ms": 1.0}, InvalidValueError, "name the images: digits, a folder"),
        ({"source": "digits", "latency_ms": 1.0, "target": "cpuu"}, UnknownTargetError, "target 'cpuu'; known: cpu"),
        ({"source": "digits", "latency_ms": 1.0, "searcher": "tpe"}, UnknownNameError, "unknown searcher 'tpe'"),
        ({"source": "digits", "latency_ms": 1.0, "runtime": "tnn"}, UnknownNameError, "'tnn'"),
        (
            {"source": "digits", "latency_ms": 1.0, "objective": ["flops"]},
            UnknownNameError,
            "objective 'flops'; known: ",
        ),
        ({"source": "digits", "limit": ["macs=5"], "latency_ms": 1.0}, InvalidValueError, "a limit is NAME<=VALUE"),
        ({"source": "digits", "limit": ["macs<=5"]}, InvalidValueError, "name the latency limit in ms"),
        ({"source": "digits", "latency_ms": 1.0, "budget_sec": 5.0}, InvalidValueError, "30 s or more, got 5 s"),
    ],
)
def test_wrong_arguments_leave_no_folder(
    tmp_path: Path, given: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        run(**given, out=tmp_path / "run")
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_board_out_of_reach_is_refused_with_what_works(tmp_path: Path) -> None:
    with pytest.raises(TargetUnavailableError, match="rpi4 is reached over the network") as caught:
        run("digits", target="rpi4", latency_ms=1.0, out=tmp_path / "run")
    assert "--device host:port" in caught.value.fix
    assert "hwautoml search --run RUN --target rpi4 works with estimated latencies" in caught.value.fix
    assert caught.value.exit_code == 4
    assert list(tmp_path.iterdir()) == []


def test_an_infeasible_limit_is_found_before_training(tmp_path: Path, refused: Callable[..., None]) -> None:
    with pytest.raises(InfeasibleLimitError, match=r"latency_ms<=1e-06; the lowest .* ms \(predicted, network"):
        refused()
    with RunStore(tmp_path / "run") as store:
        assert store.stage("profile") is not None
        assert store.stage("train") is None and store.setting("plan") is None
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_limit_of_another_objective_is_kept_and_refused_like_that_of_the_latency(
    tmp_path: Path, refused: Callable[..., None]
) -> None:
    with pytest.raises(InfeasibleLimitError, match=r"meets parameters<=10; the lowest parameters is [\d,]+ \(network"):
        refused(latency_ms=None, limit=["latency_ms<=1000", "parameters<=10"], objective=["macs"])
    with RunStore(tmp_path / "run") as store:
        settings = RunSettings.from_json(store.setting("settings"))
    assert (settings.latency_ms, settings.objectives, settings.limits) == (1000.0, ("macs",), ("parameters<=10",))


def test_after_an_infeasible_limit_another_can_be_named(refused: Callable[..., None]) -> None:
    for limit in (IMPOSSIBLE_MS, 2 * IMPOSSIBLE_MS):
        with pytest.raises(InfeasibleLimitError, match=f"meets latency_ms<={limit:g}; "):
            refused(latency_ms=limit)


def test_after_a_mistyped_path_the_right_one_can_be_named(tmp_path: Path, refused: Callable[..., None]) -> None:
    with pytest.raises(DatasetError, match="nowhere"):
        refused(source=str(tmp_path / "nowhere"))
    with pytest.raises(InfeasibleLimitError):
        refused()


def test_images_that_changed_are_not_resumed(tmp_path: Path, images: Path, refused: Callable[..., None]) -> None:
    with pytest.raises(InfeasibleLimitError):
        refused()
    write_images(images, seed=1)
    with pytest.raises(RunFolderError, match=r"images.npz changed since this run was started"):
        refused(resume=True)


def test_resuming_needs_the_folder_alone(tmp_path: Path, profiles_dir: Path, refused: Callable[..., None]) -> None:
    with pytest.raises(InfeasibleLimitError):
        refused()
    with pytest.raises(InfeasibleLimitError, match="meets latency_ms<=1e-06"):
        run(out=tmp_path / "run", resume=True, profiles_dir=profiles_dir)


def test_resuming_works_from_another_folder(
    tmp_path: Path, profiles_dir: Path, images: Path, refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InfeasibleLimitError):
        refused(source=images.name)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with pytest.raises(InfeasibleLimitError):
        run(out=tmp_path / "run", resume=True, profiles_dir=profiles_dir)


@pytest.mark.parametrize("given", [{"source": "digits", "latency_ms": 1.0}, {"source": "digits"}])
def test_a_run_that_trained_is_neither_touched_nor_taken_up_unasked(tmp_path: Path, given: dict[str, Any]) -> None:
    folder = started(tmp_path / "run")
    with pytest.raises(RunFolderError, match="already holds a run") as caught:
        run(**given, out=folder)
    assert "--resume" in (caught.value.fix or "") and "--overwrite" in (caught.value.fix or "")
    with RunStore(folder) as store:
        assert store.setting("plan") == PLAN.to_json()


def test_overwriting_starts_anew(tmp_path: Path, refused: Callable[..., None]) -> None:
    folder = started(tmp_path / "run")
    for name in ("report.html", "notes of mine.txt"):
        (folder / name).write_text("old", encoding="utf-8")
    with pytest.raises(InfeasibleLimitError):
        refused(overwrite=True)
    assert not (folder / "report.html").exists()
    assert (folder / "notes of mine.txt").is_file(), "only what a run made is removed"


@pytest.mark.parametrize(
    "wrong",
    [{"target": "cpuu"}, {"latency_ms": None}, {"searcher": "tpe"}, {"source": "/no/such/images"}, {"image_size": 500}],
)
def test_a_wrong_argument_does_not_cost_the_run_that_was_to_be_overwritten(
    tmp_path: Path, refused: Callable[..., None], wrong: dict[str, Any]
) -> None:
    folder = started(tmp_path / "run")
    with pytest.raises((InvalidValueError, DatasetError)):
        refused(overwrite=True, **wrong)
    with RunStore(folder) as store:
        assert store.setting("plan") == PLAN.to_json()


@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"resume": True}])
def test_a_run_at_work_is_left_alone(tmp_path: Path, refused: Callable[..., None], options: dict[str, bool]) -> None:
    folder = started(tmp_path / "run")
    with RunStore(folder), pytest.raises(RunFolderError, match="in use by process"):
        refused(**options)
    assert (folder / "journal.sqlite").is_file()


def test_resuming_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"nothing to resume: .*run holds no run"):
        run("digits", latency_ms=1.0, out=tmp_path / "run", resume=True)
    assert list(tmp_path.iterdir()) == []


def test_resuming_with_another_limit_is_refused(tmp_path: Path) -> None:
    folder = started(tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"other settings: latency_ms was 1.0, now 0.5") as caught:
        run(out=folder, resume=True, latency_ms=0.5)
    assert "hwautoml search" in (caught.value.fix or "")
    RunStore(folder).close()  # the lock is free again


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    for overwrite in (False, True):
        with pytest.raises(RunFolderError, match="holds other files and no run"):
            run("digits", latency_ms=1.0, out=tmp_path, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [("digits", "digits"), ("data/my photos/", "my-photos"), ("x/cats.zip", "cats"), ("..", "run"), ("größe", "gr-e")],
)
def test_the_run_folder_is_named_after_the_images(source: str, expected: str) -> None:
    assert _run_folder(None, source) == Path("runs") / expected
    assert _run_folder("here", source) == Path("here")


def test_a_run_does_not_change_the_place_where_it_measures(tmp_path: Path) -> None:
    folder = started(tmp_path / "run")
    with RunStore(folder) as store:
        store.set_setting("place", "a board")
    with pytest.raises(RunFolderError, match=r"was measured on a board, and would go on on this machine"):
        run(out=folder, resume=True)


def test_the_home_folder_is_meant_by_a_tilde(
    tmp_path: Path, refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InfeasibleLimitError):
        refused(source="~/images.npz")


def test_a_target_that_does_not_compute_in_int8_is_refused_at_once(tmp_path: Path) -> None:
    text = (ROOT / "targets" / "cpu.toml").read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(re.sub(r"precisions = .*", 'precisions = ["fp32"]', text), encoding="utf-8")
    with pytest.raises(InvalidValueError, match="computes in fp32, not in 'int8'"):
        run("digits", target="mine", latency_ms=1.0, precision="int8", out=tmp_path / "run", targets_dir=tmp_path)
    assert not (tmp_path / "run").exists()
