"""Zip files that are damaged, hostile or merely odd."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from hwautoml.datasets import load_dataset
from hwautoml.errors import DatasetError

MakeFolder = Callable[..., Path]
Picture = Callable[..., Image.Image]
ZipFolder = Callable[..., Path]


@pytest.fixture
def archive(make_folder: MakeFolder, zip_folder: ZipFolder, tmp_path: Path) -> Path:
    return zip_folder(make_folder({"a": 4, "b": 4}), tmp_path / "photos.zip")


def expect(path: Path, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        load_dataset(path)


def test_images_are_read_in_place(archive: Path) -> None:
    before = sorted(archive.parent.iterdir())
    assert load_dataset(archive).train.num_images == 4
    assert sorted(archive.parent.iterdir()) == before


@pytest.mark.parametrize("name", ["../evil.png", "a/../../evil.png", "/etc/evil.png", "C:/evil.png", "..\\evil.png"])
def test_members_outside_the_archive(archive: Path, name: str) -> None:
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(zipfile.ZipInfo(name), b"x")
    expect(archive, r"photos\.zip: member '.*evil\.png' points outside the archive")


def test_what_macos_adds_is_ignored(archive: Path) -> None:
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("__MACOSX/a/._000.png", b"x")
        file.writestr("a/.DS_Store", b"x")
        file.writestr("a/Thumbs.db", b"x")
    assert load_dataset(archive).classes == ("a", "b")


def test_backslashes_separate_folders(picture: Picture, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "windows.zip", "w") as file:
        for name in "ab":
            for index in range(3):
                picture(index).save(tmp_path / "x.png")
                file.write(tmp_path / "x.png", f"photos\\{name}\\{index}.png")
    assert load_dataset(tmp_path / "windows.zip").classes == ("a", "b")


def test_truncated_archive(archive: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:-100])
    expect(archive, r"cannot open .*photos\.zip as a zip")


def test_not_an_archive(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("hello")
    expect(tmp_path / "a.zip", r"cannot open .*a\.zip as a zip: File is not a zip file")


def test_damaged_members_count_as_broken_images(archive: Path) -> None:
    data = bytearray(archive.read_bytes())
    data[60:120] = bytes(60)  # the first member's content
    archive.write_bytes(data)
    expect(archive, r"1 of 8 images cannot be read.*photos\.zip/a/000\.png")


def test_encrypted_member(archive: Path) -> None:
    data = bytearray(archive.read_bytes())
    entry = data.find(b"PK\x01\x02")
    data[entry + 8] |= 1
    archive.write_bytes(data)
    expect(archive, r"member 'a/000\.png' is encrypted")


def test_oversized_member(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwautoml.datasets.sources.MAX_FILE_BYTES", 100)
    expect(archive, r"member 'a/000\.png' unpacks to .* more than the 100 allowed")


def test_empty_class_folder_in_a_zip(archive: Path) -> None:
    with zipfile.ZipFile(archive, "a") as file:
        file.mkdir("c")
    expect(archive, r"class folder .*photos\.zip/c holds no images")
