"""Real image files, written with Pillow."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakeFolder = Callable[..., Path]
Picture = Callable[..., Image.Image]
ZipFolder = Callable[..., Path]


def _picture(seed: int, size: tuple[int, int] = (32, 32), mode: str = "RGB") -> Image.Image:
    """A smooth random image of ``size`` (width, height): unlike noise, it survives JPEG and resizing."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC).convert(mode)


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """``make_folder({"train/cat": 5, "train/dog": 5}, size=(32, 32), mode="RGB", suffix=".png")``"""

    def make(
        counts: dict[str, int],
        *,
        name: str = "photos",
        size: tuple[int, int] = (32, 32),
        mode: str = "RGB",
        suffix: str = ".png",
    ) -> Path:
        root = tmp_path / name
        for number, (folder, count) in enumerate(counts.items()):
            (root / folder).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                _picture(1000 * number + index, size, mode).save(root / folder / f"{index:03d}{suffix}")
        return root

    return make


def _zip_folder(root: Path, path: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            if file.is_file():
                archive.write(file, prefix + file.relative_to(root).as_posix())
    return path


@pytest.fixture
def cifar10_zip() -> Path:
    folder = Path(os.environ.get("HWAUTOML_DATA", Path(__file__).parents[3] / "shared" / "data"))
    path = folder / "cifar10.zip"
    if not path.is_file():
        pytest.skip(f"{path} is not there; set HWAUTOML_DATA to the folder that holds cifar10.zip")
    return path


@pytest.fixture
def picture() -> Picture:
    """``picture(seed, size=(32, 32), mode="RGB")``"""
    return _picture


@pytest.fixture
def zip_folder() -> ZipFolder:
    """``zip_folder(root, path, prefix="")``"""
    return _zip_folder
