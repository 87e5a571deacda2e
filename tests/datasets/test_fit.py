"""How pictures become squares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hwautoml.datasets import load_dataset
from hwautoml.datasets.decoding import square
from hwautoml.datasets.probing import choose_fit
from hwautoml.errors import UnknownNameError
from tests.datasets.shared import finding


def test_photographs_are_cropped_and_strips_are_kept_whole() -> None:
    assert choose_fit([]) == "crop"
    assert choose_fit([(4000, 3000), (3000, 4000), (1920, 1080)]) == "crop"
    assert choose_fit([(640, 100)] * 20 + [(600, 100)]) == "stretch"
    assert choose_fit([(640, 100), (100, 500), (300, 100)]) == "pad"


def test_each_fit_shows_what_it_says() -> None:
    """A wide picture with a bright bar at its left end."""
    pixels = np.zeros((16, 64), dtype=np.uint8)
    pixels[:, :8] = 255
    image = Image.fromarray(pixels)
    crop, pad, stretch = (np.asarray(square(image, 16, fit)) for fit in ("crop", "pad", "stretch"))
    assert crop.max() == 0
    assert (pad[:6] == 128).all() and (pad[10:] == 128).all() and pad[8, 0] == 255 and pad[8, 5] == 0
    assert (stretch[:, 0] == 255).all() and (stretch[:, 4:] == 0).all()


def strips(root: Path, sizes: list[tuple[int, int]]) -> Path:
    rng = np.random.default_rng(0)
    for number in range(40):
        width, height = sizes[number % len(sizes)]
        folder = root / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width), dtype=np.uint8)).save(folder / f"{number}.png")
    return root


def test_a_set_of_strips(tmp_path: Path) -> None:
    dataset = load_dataset(strips(tmp_path / "set", [(96, 16)]))
    assert dataset.pixel_rule.fit == "stretch" and "squeezed into squares" in finding(dataset, "fit").message
    cropped = load_dataset(tmp_path / "set", fit="crop", cache_dir=tmp_path / "cache")
    assert cropped.pixel_rule.fit == "crop" and "cuts off 83%" in finding(cropped, "cut-off").message
    padded = load_dataset(tmp_path / "set", fit="pad", cache_dir=tmp_path / "cache", in_memory_limit_bytes=0)
    assert (padded.train.images_uint8()[:, 0] == 128).all()
    with pytest.raises(UnknownNameError, match="unknown fit 'cover'; known: "):
        load_dataset(tmp_path / "set", fit="cover")


def test_strips_of_many_shapes_and_arrays(tmp_path: Path) -> None:
    assert load_dataset(strips(tmp_path, [(96, 16), (16, 80), (64, 20), (50, 12)])).pixel_rule.fit == "pad"
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 40), dtype=np.uint8)
    assert load_dataset((images, np.arange(20) % 2)).pixel_rule.fit == "stretch"
