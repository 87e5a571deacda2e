"""What the runners say of tasks other than the ranking of classes, and of bundles from before there were tasks."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hwautoml.bundles import BundleSample, write_bundle
from hwautoml.bundles.runner import run as runner
from hwautoml.core.task import Answer
from hwautoml.tasks.classification import Classification
from tests.sealing import write_manifest

IMAGE = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Answering(Classification):
    """Any answer; what it is called does not matter to a runner."""

    said: Answer | None = None

    @property
    def answer(self) -> Answer:
        return self.said or Answer()


@pytest.fixture
def bundle(tmp_path: Path, bundle_arguments: dict[str, Any], infer: Callable[..., np.ndarray]) -> Callable[..., Path]:
    def make(answer: Answer) -> Path:
        outputs = infer(bundle_arguments["onnx_path"], IMAGE)
        task = Answering(bundle_arguments["task"].outputs, answer)
        arguments = {**bundle_arguments, "task": task, "samples": [BundleSample(IMAGE, outputs)]}
        Image.fromarray(IMAGE).save(tmp_path / "image.png")
        return write_bundle(tmp_path / "bundle", **arguments)

    return make


def said(folder: Path, *words: str) -> str:
    command = [sys.executable, str(folder / "run.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_above_names_those_that_reach_their_threshold(
    bundle: Callable[..., Path], tmp_path: Path, onnx_path: Path, infer: Callable[..., np.ndarray]
) -> None:
    outputs = infer(onnx_path, IMAGE)
    largest, smallest = int(outputs.argmax()), int(outputs.argmin())
    thresholds = [0.0 if i == smallest else 0.9999999 if i != largest else float(outputs[i]) - 1e-3 for i in range(3)]
    folder, image = bundle(Answer("above", tuple(thresholds))), str(tmp_path / "image.png")
    (row,) = json.loads(said(folder, image, "--json", "--top", "1"))
    names = json.loads((folder / "manifest.json").read_text())["classes"]
    assert [p["class"] for p in row["predictions"]] == [names[largest], names[smallest]], (
        "largest first, whatever --top"
    )
    assert said(folder, image).count("%") == 2


def test_above_may_name_none(bundle: Callable[..., Path], tmp_path: Path) -> None:
    folder, image = bundle(Answer("above", (1.1, 1.1, 1.1))), str(tmp_path / "image.png")
    assert said(folder, image) == f"{image}: none\n"
    assert json.loads(said(folder, image, "--json"))[0]["predictions"] == []


def test_values_have_their_unit(
    bundle: Callable[..., Path], tmp_path: Path, onnx_path: Path, infer: Callable[..., np.ndarray]
) -> None:
    folder, image = bundle(Answer("values", unit="bar")), str(tmp_path / "image.png")
    (row,) = json.loads(said(folder, image, "--json"))
    assert [(p["output"], p["unit"]) for p in row["predictions"]] == [(n, "bar") for n in ("bird", "cat", "déjà vu")]
    assert [p["value"] for p in row["predictions"]] == pytest.approx(infer(onnx_path, IMAGE).tolist(), abs=1e-6)
    assert said(folder, image).startswith(f"{image}: bird ") and said(folder, image).count(" bar") == 3
    assert "outputs differ by at most" in said(folder, "--check")


def test_a_bundle_of_before_there_were_tasks_ranks_classes(bundle: Callable[..., Path], tmp_path: Path) -> None:
    folder, image = bundle(Answer("ranking")), str(tmp_path / "image.png")
    before = said(folder, image, "--top", "2"), said(folder, "--check")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["task"]
    write_manifest(folder, json.dumps(manifest))
    assert (said(folder, image, "--top", "2"), said(folder, "--check")) == before
    assert "probabilities differ by at most" in before[1]


def test_another_kind_of_answer_is_refused(bundle: Callable[..., Path], tmp_path: Path) -> None:
    folder = bundle(Answer("ranking"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["task"]["answer"]["kind"] = "boxes"
    write_manifest(folder, json.dumps(manifest))
    command = [sys.executable, str(folder / "run.py"), str(tmp_path / "image.png")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == runner.EXIT_BAD_BUNDLE and "kind 'boxes' that is not known here" in done.stderr


@pytest.mark.parametrize("answer", [Answer("values", unit="bar"), Answer("ranking")], ids=lambda answer: answer.kind)
def test_the_service_says_the_same(bundle: Callable[..., Path], tmp_path: Path, answer: Answer) -> None:
    folder = bundle(answer)
    command = [sys.executable, str(folder / "serve.py"), "--port", "0", "--quiet"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        url = next(word for word in process.stderr.readline().split() if word.startswith("http")) + "/predict"
        try:
            with urllib.request.urlopen(url, data=(tmp_path / "image.png").read_bytes(), timeout=20) as response:
                found = json.loads(response.read())
        finally:
            process.terminate()
    (row,) = json.loads(said(folder, str(tmp_path / "image.png"), "--json"))
    assert found["predictions"] == row["predictions"]
