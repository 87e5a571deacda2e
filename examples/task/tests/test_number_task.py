from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from number_task import Regression

from hwautoml.core.task import Labels, Outputs, Task
from hwautoml.testing.tasks import TaskSuite


class TestRegression(TaskSuite):
    task_class = Regression
    given = np.random.default_rng(0).uniform(-40, 120, 60)
    refused = (
        np.zeros(0),
        np.full(30, 7),
        np.zeros((30, 2)),
        np.array([1.0, np.nan, 3.0]),
        np.array(["1", "two"]),
        np.arange(9) > 3,
    )

    def perfect_outputs(self, task: Task, labels: Labels) -> Outputs:
        return labels[:, None].astype(np.float32)


class TestNamesOfFolders(TestRegression):
    given = np.array(["0", "0.5", "12", "-3"])[np.random.default_rng(0).permutation(np.arange(24) % 4)]


def test_metrics_by_hand() -> None:
    task, labels = Regression.from_labels(np.array([0.0, 2.0, 4.0]), "y")
    found = task.metrics(task.outcome(np.array([[1.0], [2.0], [4.0]]), labels))
    assert found["explained_variance"] == pytest.approx(1 - 1 / 8)
    assert found["mean_error"] == pytest.approx(1 / 3) and found["largest_error"] == 1.0
    assert found["root_mean_square_error"] == pytest.approx(3**-0.5)


def test_what_is_worse_than_the_mean_explains_nothing() -> None:
    task, labels = Regression.from_labels(np.array([0.0, 2.0, 4.0]), "y")
    assert task.score(task.outcome(np.array([[100.0], [2.0], [4.0]]), labels)) == 0.0


def gauges(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 (number, 16, 16) of a bar that is filled to a level of 0 to 100."""
    rng = np.random.default_rng(0)
    levels = rng.uniform(0, 100, number)
    rows = np.arange(16)[None, :, None]
    filled = np.clip(levels[:, None, None] / 100 * 16 - (15 - rows), 0, 1)
    pictures = 40 + 170 * filled * np.ones((1, 1, 16)) + rng.normal(0, 12, (number, 16, 16))
    return np.clip(pictures, 0, 255).astype(np.uint8), levels.astype(np.float32)


@pytest.mark.slow
def test_a_run_ends_with_a_bundle_that_reads_gauges(tmp_path: Path) -> None:
    """The package must be installed: ``hwautoml`` finds the task by its name."""
    pictures, levels = gauges(1200)
    np.savez(tmp_path / "gauges.npz", x=pictures, y=levels)
    command = [sys.executable, "-m", "hwautoml.cli", "run", str(tmp_path / "gauges.npz"), "--task", "regression"]
    command += ["--latency-ms", "2", "--budget", "100s", "--out", str(tmp_path / "run"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["task"]["name"] == "regression" and result["task"]["metric"] == "explained_variance"
    assert result["accuracy"]["test"] > 0.8 and result["task"]["metrics"]["test"]["mean_error"] < 15
    bundle, image = Path(result["bundle"]), tmp_path / "gauge.png"
    check = subprocess.run([sys.executable, str(bundle / "run.py"), "--check"], capture_output=True, text=True)
    assert check.returncode == 0 and "outputs differ by at most" in check.stdout, check.stdout + check.stderr
    from PIL import Image

    Image.fromarray(pictures[0]).save(image)
    words = [sys.executable, str(bundle / "run.py"), str(image), "--json"]
    (answer,) = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    (value,) = answer["predictions"]
    assert value["output"] == "value" and abs(value["value"] - levels[0]) < 25
    assert "explained variance" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
