"""Whole runs from a pretrained network, with real weights, training and measurements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hwautoml.bundles import read_bundle
from hwautoml.core.run_result import RunResult
from hwautoml.pipeline import run, search, verify

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three kinds of texture, 160 x 160 pixels, a few of each: more than noise, and too few to learn from scratch."""
    folder, rng, side = tmp_path_factory.mktemp("photos"), np.random.default_rng(0), np.arange(160)
    x, y = np.meshgrid(side, side)
    for kind in ("checks", "rings", "stripes"):
        (folder / kind).mkdir()
        for number in range(24):
            size, shift = rng.uniform(6, 12), rng.uniform(0, 40, 2)
            waves = {
                "checks": np.sign(np.sin((x + shift[0]) / size) * np.sin((y + shift[1]) / size)),
                "rings": np.sin(np.hypot(x - 60 - shift[0], y - 60 - shift[1]) / size * 2),
                "stripes": np.sin((x * np.cos(number) + y * np.sin(number)) / size * 2),
            }[kind]
            colours = rng.uniform(40, 90, 3) * waves[..., None] + rng.uniform(100, 150, 3)
            noisy = np.clip(colours + rng.normal(0, 25, (160, 160, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / kind / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pretrained")


@pytest.fixture(scope="module")
def result(photos: Path, folder: Path) -> RunResult:
    return run(str(photos), latency_ms=50.0, budget_sec=75.0, out=folder / "run", profiles_dir=folder / "profiles")


def test_photographs_begin_with_a_pretrained_network(result: RunResult) -> None:
    assert result.start is not None and result.start.name == "efficientnet-lite0"
    assert "training photographs are few" in result.start.reason
    assert result.architecture.space == "efficientnet-lite0/v1/224x224x3/classes3"
    assert result.accuracy.test >= 0.8, "a third would be guessing"
    assert result.latency_ms.measured_interval[1] <= 50.0


def test_the_bundle_holds_what_it_promises(result: RunResult) -> None:
    assert verify(result.bundle, no_latency=True).passed
    assert read_bundle(Path(result.bundle)).classes == ("checks", "rings", "stripes")


def test_another_limit_is_searched_among_what_was_probed(result: RunResult, folder: Path) -> None:
    found = search(folder / "run", latency_ms=30.0, profiles_dir=folder / "profiles")
    assert found.best is not None and found.best.latency_ms <= 30.0


def test_a_limit_that_no_part_of_it_meets_is_met_from_scratch(photos: Path, folder: Path) -> None:
    """Less than the smallest member's stem takes."""
    found = run(str(photos), latency_ms=0.045, budget_sec=40.0, out=folder / "fast", profiles_dir=folder / "profiles")
    assert found.start is not None and found.start.name == "scratch"
    assert "no member of efficientnet-lite0 is predicted to run within 0.045 ms" in found.start.reason
    assert found.architecture.space.startswith("mobile/v1/64x64x3")
