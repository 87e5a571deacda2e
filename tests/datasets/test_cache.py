from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hwautoml.datasets import ImageDataset, load_dataset

MakeFolder = Callable[..., Path]


def never(*_: object, **__: object) -> None:
    raise AssertionError("decoded again")


def assert_same(one: ImageDataset, other: ImageDataset) -> None:
    for name in ("fingerprint", "mean", "std", "skipped"):
        assert getattr(one, name) == getattr(other, name)
    for split in ("train", "val", "test"):
        assert np.array_equal(getattr(one, split).images_uint8(), getattr(other, split).images_uint8())


@pytest.mark.parametrize("limit", [0, 2**30])
def test_second_load_decodes_nothing(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    root = make_folder({"a": 10, "b": 10})
    (root / "a" / "003.png").write_bytes(b"broken")
    cache = tmp_path / "new" / "cache"
    first = load_dataset(root, cache_dir=cache, in_memory_limit_bytes=limit)
    assert [path.suffix for path in cache.iterdir()] == [".npz"]
    monkeypatch.setattr("hwautoml.datasets.loading.scan_files", never)
    assert_same(first, load_dataset(root, cache_dir=cache, in_memory_limit_bytes=limit))
    assert first.skipped


def test_seed_and_fractions_share_a_cache(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder({"a": 10, "b": 10})
    load_dataset(root, cache_dir=tmp_path / "cache")
    monkeypatch.setattr("hwautoml.datasets.loading.scan_files", never)
    assert load_dataset(root, cache_dir=tmp_path / "cache", seed=4, test_fraction=0.5).test.num_images == 10


def test_a_changed_file_or_setting_is_decoded_anew(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"a": 10, "b": 10})
    cache = tmp_path / "cache"
    before = load_dataset(root, cache_dir=cache)
    (root / "a" / "000.png").write_bytes((root / "b" / "000.png").read_bytes())
    assert load_dataset(root, cache_dir=cache).fingerprint != before.fingerprint
    assert load_dataset(root, cache_dir=cache, image_size=8).image_size == 8
    assert load_dataset(root, cache_dir=cache, channels=1).channels == 1
    assert len(list(cache.iterdir())) == 4


@pytest.mark.parametrize("damage", ["empty", "half", "nonsense"])
def test_a_damaged_cache_is_replaced(
    make_folder: MakeFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    root = make_folder({"a": 10, "b": 10})
    first = load_dataset(root, cache_dir=tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    data = file.read_bytes()
    file.write_bytes({"empty": b"", "half": data[: len(data) // 2], "nonsense": b"nonsense"}[damage])
    assert_same(first, load_dataset(root, cache_dir=tmp_path / "cache"))
    assert "ignoring the damaged cache" in caplog.text
    assert file.stat().st_size == len(data)


def test_an_unwritable_cache_is_only_logged(
    make_folder: MakeFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    load_dataset(make_folder({"a": 3, "b": 3}), cache_dir=tmp_path / "cache")
    assert "could not write the cache" in caplog.text


@pytest.mark.slow
def test_cifar10(cifar10_zip: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    first = load_dataset(cifar10_zip, cache_dir=tmp_path)
    decoded_sec = time.monotonic() - started
    started = time.monotonic()
    second = load_dataset(cifar10_zip, cache_dir=tmp_path)
    cached_sec = time.monotonic() - started
    assert (first.train.num_images, first.val.num_images, first.test.num_images) == (42500, 7500, 10000)
    assert first.classes[0] == "airplane" and len(first.classes) == 10
    assert first.fingerprint == second.fingerprint
    assert decoded_sec < 60 and cached_sec < 10, (decoded_sec, cached_sec)  # 15 and 2 on two quiet cores


def test_importing_the_room_loads_neither_torch_nor_pillow() -> None:
    code = "import sys, hwautoml.datasets; print([m for m in ('torch', 'PIL', 'sklearn') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
