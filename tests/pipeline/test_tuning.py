"""Tuning a space: what is recorded is kept whatever ends the tuner, merged, shown, and found by look-up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import hwautoml
from hwautoml.errors import InvalidValueError, RunFolderError, TargetUnavailableError
from hwautoml.pipeline import compile, tune
from hwautoml.pipeline.artifacts import deployable_probe
from hwautoml.schedules.records import Record, Records
from hwautoml.schedules.tiling import Tiling
from hwautoml.spaces import load_space

FAST, SLOW = Record("conv", Tiling(), 3.0, num_tried=2), Record("conv", Tiling(rows=2), 9.0, num_tried=2)


def records(path: Path, **entries: Record) -> Path:
    Records(path, {"device": entries}).save()
    return path


def test_merging_keeps_the_better_record(tmp_path: Path) -> None:
    mine = records(tmp_path / "mine.json", aa=SLOW, bb=FAST)
    other = records(tmp_path / "other.json", aa=FAST, bb=SLOW, cc=SLOW)
    result = tune(records=mine, merge=[other])
    assert Records.load(mine).by_target == {"device": {"aa": FAST, "bb": FAST, "cc": SLOW}}
    assert result["num_before"] == 2 and result["devices"][0]["num_functions"] == 3


def test_inspecting_shows_the_slowest(tmp_path: Path) -> None:
    (device,) = tune(records=records(tmp_path / "mine.json", aa=FAST, bb=SLOW), inspect=True)["devices"]
    assert [row["time_us"] for row in device["slowest"]] == [9.0, 3.0] and device["num_trials"] == 4


def test_what_cannot_be_tuned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="nothing is tuned yet"):
        tune(inspect=True, profiles_dir=tmp_path)
    with pytest.raises(RunFolderError, match="does not exist"):
        tune(merge=[tmp_path / "none.json"], profiles_dir=tmp_path)
    with pytest.raises(InvalidValueError, match="positive time"):
        tune(budget_sec=0.0, profiles_dir=tmp_path)
    with pytest.raises(TargetUnavailableError):
        tune("rpi4", profiles_dir=tmp_path)


@pytest.mark.slow
def test_a_killed_tuner_loses_nothing_and_networks_compile_by_look_up(tmp_path: Path) -> None:
    path = tmp_path / "cpu" / "tvm_records.json"
    words = ["tune", "--image-size", "8", "--channels", "grey", "--budget", "10m", "--profiles-dir", str(tmp_path)]
    environment = dict(os.environ, PYTHONPATH=str(Path(hwautoml.__file__).parent.parent))
    process = subprocess.Popen([sys.executable, "-m", "hwautoml.cli", *words], env=environment)
    deadline = time.monotonic() + 300
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (before,) = Records.load(path).by_target.values()
    space = load_space("mobile", image_size=8, channels=1, num_classes=10)
    result = tune(image_size=8, channels=1, budget_sec=90, profiles_dir=tmp_path)
    (after,) = Records.load(path).by_target.values()
    assert all(after[key].num_tried >= record.num_tried for key, record in before.items())
    assert result["num_recorded"] >= len(before)
    if result["num_recorded"] == result["num_functions"]:
        network = deployable_probe(space, space.sample(np.random.default_rng(0)), tmp_path / "net.onnx")
        assert compile(network, profiles_dir=tmp_path)["tuned"] > 0
