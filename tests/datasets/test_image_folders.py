from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hwautoml.datasets import load_dataset
from hwautoml.errors import DatasetError, InvalidValueError
from tests.datasets.shared import finding
from tests.pictures import png_with_torn_exif

MakeFolder = Callable[..., Path]
Picture = Callable[..., Image.Image]
ZipFolder = Callable[..., Path]


def test_flat_folder_is_split(make_folder: MakeFolder) -> None:
    dataset = load_dataset(make_folder({"dog": 20, "cat": 20, "ant": 20}))
    assert dataset.name == "photos"
    assert dataset.classes == ("ant", "cat", "dog")
    assert (dataset.image_size, dataset.channels, len(dataset.classes)) == (32, 3, 3)
    assert [split.num_images for split in (dataset.train, dataset.val, dataset.test)] == [39, 9, 12]
    assert np.bincount(dataset.test.labels.numpy()).tolist() == [4, 4, 4]
    assert dataset.skipped == ()


def test_pixels_and_labels_belong_together(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 4, "b": 4})
    dataset = load_dataset(root)
    originals = {
        np.asarray(Image.open(path)).tobytes(): label for label in (0, 1) for path in (root / "ab"[label]).iterdir()
    }
    for split in (dataset.train, dataset.val, dataset.test):
        for image, label in zip(split.images_uint8(), split.labels.tolist(), strict=True):
            assert originals[image.tobytes()] == label


@pytest.mark.parametrize("val_name", ["val", "valid", "validation", "Val"])
def test_three_given_splits(make_folder: MakeFolder, val_name: str) -> None:
    counts = {f"{split}/{name}": n for split, n in (("train", 6), (val_name, 3), ("test", 2)) for name in "ab"}
    dataset = load_dataset(make_folder(counts))
    assert [split.num_images for split in (dataset.train, dataset.val, dataset.test)] == [12, 6, 4]


def test_missing_val_is_drawn_from_train(make_folder: MakeFolder) -> None:
    dataset = load_dataset(make_folder({"train/a": 20, "train/b": 20, "test/a": 5, "test/b": 5}))
    assert [split.num_images for split in (dataset.train, dataset.val, dataset.test)] == [34, 6, 10]


def test_missing_test_is_drawn_from_train(make_folder: MakeFolder) -> None:
    dataset = load_dataset(make_folder({"train/a": 20, "train/b": 20, "val/a": 5, "val/b": 5}))
    assert [split.num_images for split in (dataset.train, dataset.val, dataset.test)] == [32, 10, 8]


def test_train_may_be_a_class(make_folder: MakeFolder) -> None:
    assert load_dataset(make_folder({"car": 4, "plane": 4, "train": 4})).classes == ("car", "plane", "train")


def test_hidden_and_other_files_are_ignored(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 4, "b": 4, ".git": 1, "__MACOSX": 1})
    (root / "a" / "notes.txt").write_text("no image")
    (root / "a" / ".DS_Store").write_bytes(b"x")
    (root / "a" / "._000.png").write_bytes(b"x")
    dataset = load_dataset(root)
    assert dataset.classes == ("a", "b")
    assert dataset.skipped == ()


def test_folder_and_zip_are_the_same(make_folder: MakeFolder, tmp_path: Path, zip_folder: ZipFolder) -> None:
    root = make_folder({"train/a": 6, "train/b": 6, "test/a": 2, "test/b": 2})
    wanted = load_dataset(root)
    for name, prefix in (("plain.zip", ""), ("wrapped.zip", "photos/"), ("mac.ZIP", "photos/")):
        path = zip_folder(root, tmp_path / name, prefix)
        dataset = load_dataset(path)
        assert dataset.fingerprint == wanted.fingerprint
        assert (dataset.mean, dataset.std) == (wanted.mean, wanted.std)
        for split in ("train", "val", "test"):
            assert np.array_equal(getattr(dataset, split).images_uint8(), getattr(wanted, split).images_uint8())


def test_fingerprint_follows_content(make_folder: MakeFolder, picture: Picture) -> None:
    root = make_folder({"a": 4, "b": 4})
    before = load_dataset(root).fingerprint
    assert load_dataset(root, image_size=8, seed=3).fingerprint == before
    picture(99).save(root / "a" / "000.png")
    changed = load_dataset(root).fingerprint
    assert changed != before
    (root / "b").rename(root / "c")
    assert load_dataset(root).fingerprint not in (before, changed)


@pytest.mark.parametrize(
    ("size", "expected"), [((8, 8), 8), ((64, 64), 64), ((28, 30), 32), ((65, 65), 64), ((200, 100), 64)]
)
def test_default_image_size(make_folder: MakeFolder, size: tuple[int, int], expected: int) -> None:
    assert load_dataset(make_folder({"a": 3, "b": 3}, size=size)).image_size == expected


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".gif", ".tif", ".ppm"])
def test_formats(make_folder: MakeFolder, suffix: str) -> None:
    dataset = load_dataset(make_folder({"a": 3, "b": 3}, suffix=suffix))
    assert dataset.skipped == ()
    assert dataset.channels == 3


@pytest.mark.parametrize(
    ("mode", "suffix", "channels"),
    [("L", ".png", 1), ("LA", ".png", 1), ("1", ".png", 1), ("RGBA", ".png", 3), ("P", ".png", 3), ("CMYK", ".jpg", 3)],
)
def test_modes(make_folder: MakeFolder, mode: str, suffix: str, channels: int) -> None:
    assert load_dataset(make_folder({"a": 3, "b": 3}, mode=mode, suffix=suffix)).channels == channels


def test_photographs_are_turned_upright(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 3, "b": 3}, suffix=".jpg", size=(32, 32))
    pixels = np.zeros((32, 32, 3), dtype=np.uint8)
    pixels[:16] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    for path in root.rglob("*.jpg"):
        Image.fromarray(pixels).save(path, exif=exif)
    image = load_dataset(root, is_tolerant=True).train.images_uint8()[0]
    assert image[:14].max() < 20
    assert image[-14:].min() > 230


def test_centre_is_cropped(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 3, "b": 3})
    pixels = np.zeros((16, 48, 3), dtype=np.uint8)
    pixels[:, 16:32] = 200
    for path in root.rglob("*.png"):
        Image.fromarray(pixels).save(path)
    assert (load_dataset(root, image_size=16, fit="crop", is_tolerant=True).train.images_uint8() == 200).all()


def test_channels_convert(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 3, "b": 3})
    grey = load_dataset(root, channels=1)
    assert grey.train.images_uint8().shape[-1] == grey.channels == len(grey.mean) == 1
    colour = load_dataset(make_folder({"a": 3, "b": 3}, name="grey", mode="L"), channels=3)
    assert np.ptp(colour.train.images_uint8(), axis=-1).max() == 0


def test_grey_among_colour_is_taken_as_colour_and_said(make_folder: MakeFolder, picture: Picture) -> None:
    root = make_folder({"a": 3, "b": 3})
    picture(7, mode="L").save(root / "b" / "001.png")
    dataset = load_dataset(root)
    assert dataset.channels == 3
    found = finding(dataset, "grey-among-colour")
    assert (found.severity, found.count, found.examples) == ("note", 1, (("b/001.png",),))
    assert load_dataset(root, channels=1).channels == 1


@pytest.mark.parametrize("odd", ["L", "RGB"])
def test_mixed_channels_outside_the_probed_sample(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch, picture: Picture, odd: str
) -> None:
    monkeypatch.setattr("hwautoml.datasets.probing.NUM_PROBED", 2)
    root = make_folder({"a": 5, "b": 5}, mode="RGB" if odd == "L" else "L")
    picture(7, mode=odd).save(root / "b" / "001.png")
    dataset = load_dataset(root)
    assert dataset.channels == 3
    assert finding(dataset, "grey-among-colour")


def test_mean_and_std_are_those_of_the_training_images(make_folder: MakeFolder) -> None:
    dataset = load_dataset(make_folder({"a": 8, "b": 8}))
    pixels = dataset.train.images_uint8() / 255
    assert dataset.mean == pytest.approx(pixels.mean(axis=(0, 1, 2)), abs=1e-9)
    assert dataset.std == pytest.approx(pixels.std(axis=(0, 1, 2)), abs=1e-9)


def test_constant_images_have_a_positive_std(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 3, "b": 3})
    for path in root.rglob("*.png"):
        Image.new("RGB", (32, 32), (9, 9, 9)).save(path)
    with pytest.raises(DatasetError, match="6 of 6 images are one flat colour.*nothing to learn from|copies"):
        load_dataset(root)
    assert load_dataset(root, is_tolerant=True).std == (1 / 255,) * 3


def test_progress_ends_at_the_total(make_folder: MakeFolder) -> None:
    seen: list[tuple[int, int]] = []
    load_dataset(make_folder({"a": 3, "b": 3}), on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (6, 6)


def break_files(root: Path, names: list[str]) -> None:
    for name in names:
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[: len(data) // 2])


def test_a_few_broken_images_are_skipped_and_named(make_folder: MakeFolder, caplog: pytest.LogCaptureFixture) -> None:
    root = make_folder({"a": 10, "b": 10}, suffix=".jpg")
    break_files(root, ["a/003.jpg"])
    (root / "b" / "004.jpg").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        dataset = load_dataset(root)
    assert [image.path for image in dataset.skipped] == ["a/003.jpg", "b/004.jpg"]
    assert "truncated" in dataset.skipped[0].reason.lower()
    assert "not an image" in dataset.skipped[1].reason
    assert "skipped 2 of 20" in caplog.text
    assert dataset.train.num_images + dataset.val.num_images + dataset.test.num_images == 18


def test_many_broken_images_are_an_error(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 10, "b": 10}, suffix=".jpg")
    break_files(root, ["a/003.jpg", "b/001.jpg", "b/005.jpg"])
    with pytest.raises(DatasetError, match=r"3 of 20 images cannot be read.*a/003\.jpg \(.*b/001\.jpg"):
        load_dataset(root)


def test_a_class_without_readable_image_is_an_error(make_folder: MakeFolder) -> None:
    root = make_folder({"train/a": 30, "train/b": 30, "test/a": 1, "test/b": 1})
    (root / "test" / "b" / "000.png").write_bytes(b"nonsense")
    with pytest.raises(DatasetError, match=r"class 'b' in test has no readable image left.*test/b/000\.png"):
        load_dataset(root)


@pytest.mark.parametrize("arguments", [{}, {"image_size": 32, "channels": 3}, {"in_memory_limit_bytes": 0}])
def test_pictures_that_are_far_too_large_are_skipped_and_named(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch, picture: Picture, arguments: dict[str, int]
) -> None:
    """Up to twice Pillow's limit they are used, beyond it not; neither ends anything."""
    root = make_folder({"a": 15, "b": 15})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 32 * 32)
    monkeypatch.setattr("hwautoml.datasets.decoding.LARGE_PIXELS", 32 * 32)
    picture(1, size=(48, 32)).save(root / "a" / "002.png")
    picture(1, size=(96, 32)).save(root / "b" / "002.png")
    dataset = load_dataset(root, **arguments)
    (skipped,) = dataset.skipped
    assert skipped.path == "b/002.png" and "far larger than a photo" in skipped.reason
    assert "skipped 1 of 30 images" in finding(dataset, "broken-files").message
    assert sum(len(images) for images, _ in dataset.train.batches(8)) == dataset.train.num_images


# What is not an image folder.


def expect(root: Path, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        load_dataset(root)


def test_no_such_path(tmp_path: Path) -> None:
    expect(tmp_path / "nowhere", r"no such file or folder: .*nowhere[\s\S]*digits")


def test_neither_folder_nor_archive(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"x")
    expect(tmp_path / "a.tar", r"a\.tar is no source of labelled images[\s\S]*pass a folder")


def test_empty_folder(tmp_path: Path) -> None:
    expect(tmp_path, "is not an image folder: it holds no images; expected one sub-folder")


def test_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.c").write_text("int main;")
    (tmp_path / "docs").mkdir()
    expect(tmp_path, "is not an image folder: its folders hold no images")


def test_loose_images(tmp_path: Path, picture: Picture) -> None:
    picture(0).save(tmp_path / "a.png")
    expect(tmp_path, "is not an image folder: it holds 1 images but no class folders")


def test_one_class_only(make_folder: MakeFolder) -> None:
    expect(make_folder({"cat": 5}), "one class only, 'cat'")
    expect(make_folder({"train/cat": 5, "test/cat": 5}, name="split"), "one class only, 'cat'")


def test_empty_class(make_folder: MakeFolder) -> None:
    expect(make_folder({"cat": 5, "dog": 0}), "class folder .*dog holds no images")
    expect(make_folder({"train/cat": 5, "train/dog": 5, "test/cat": 5, "test/dog": 0}, name="s"), "test/dog holds no")


def test_kinds_that_are_not_read_are_named(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 5, "dog": 0})
    (root / "dog" / "1.HEIC").write_bytes(b"x")
    expect(root, r"dog holds no images, but 1 that are not read: HEIC is not read; convert it to JPEG")
    scans = make_folder({"ill": 0, "well": 0}, name="scans")
    (scans / "ill" / "1.dcm").write_bytes(b"x")
    expect(scans, r"hold no images[\s\S]*1 pictures of other kinds: DICOM is not read; save its pixels as 16-bit PNG")


def test_class_too_small_to_split(make_folder: MakeFolder) -> None:
    expect(make_folder({"cat": 5, "dog": 2}), "class 'dog' of .* has 2 usable")


def test_folders_below_a_class_belong_to_it(make_folder: MakeFolder) -> None:
    dataset = load_dataset(make_folder({"cat/young": 5, "cat/old/grey": 5, "dog": 5}))
    assert dataset.classes == ("cat", "dog")
    assert np.bincount(np.concatenate([s.labels for s in (dataset.train, dataset.val, dataset.test)])).tolist() == [
        10,
        5,
    ]
    found = finding(dataset, "nested-folders")
    assert found.severity == "note" and "cat/old" in found.message


def test_inner_folders_that_look_like_classes_are_warned_of(make_folder: MakeFolder) -> None:
    root = make_folder({f"{light}/{name}": 4 for light in ("day", "night") for name in ("cat", "dog")})
    found = finding(load_dataset(root), "nested-classes")
    assert found.severity == "warn" and "--label-pattern '*/{label}/**'" in found.fix
    assert load_dataset(root, label_pattern="*/{label}/**").classes == ("cat", "dog")


def test_splits_with_other_classes(make_folder: MakeFolder) -> None:
    counts = {"train/cat": 5, "train/dog": 5, "test/cat": 5}
    expect(make_folder(counts), "test lacks the class 'dog'")
    expect(make_folder({**counts, "test/dog": 1, "test/eel": 1}, name="b"), "test has a class 'eel' that train lacks")


def test_misplaced_split_folders(make_folder: MakeFolder) -> None:
    train = {"train/cat": 5, "train/dog": 5}
    expect(make_folder({**train, "extra/cat": 5}), r"split folders \(train\) and others \(extra\)")
    expect(make_folder({"test/cat": 5, "val/cat": 5}, name="b"), "has test and val but no train folder")
    expect(make_folder({**train, "val/cat": 1, "valid/cat": 1}, name="c"), "both name the val split")


def test_names_that_are_not_text(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"a": 3, "b": 3})
    (root / "a" / "000.png").rename(root / "a" / "\udcff.png")
    assert load_dataset(root, cache_dir=tmp_path / "cache").skipped == ()
    (root / "a").rename(root / "a\udcff")
    expect(root, "has no printable name")


def test_link_that_leads_nowhere_counts_as_broken(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 10, "b": 10})
    (root / "a" / "x.png").symlink_to(root / "nowhere.png")
    assert [image.path for image in load_dataset(root).skipped] == ["a/x.png"]


def test_unreadable_folder(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder({"a": 3, "b": 3})

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("hwautoml.datasets.sources.os.scandir", refuse)
    expect(root, r"cannot read folder .*photos.*: Permission denied")


def test_bad_arguments(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 3, "b": 3})
    for arguments in ({"channels": 2}, {"image_size": 0}, {"image_size": 10**6}, {"val_fraction": 0.9}):
        with pytest.raises(InvalidValueError):
            load_dataset(root, **arguments)


def test_file_that_vanishes_between_listing_and_reading_counts_as_broken(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hwautoml.datasets.sources import FolderSource

    root = make_folder({"a": 10, "b": 10})
    read = FolderSource.read

    def vanish(self: FolderSource, path: str) -> bytes:
        if path == "a/000.png":
            raise FileNotFoundError(2, "No such file", path)
        return read(self, path)

    monkeypatch.setattr(FolderSource, "read", vanish)
    assert [image.path for image in load_dataset(root).skipped] == ["a/000.png"]


def test_linked_class_folders_are_followed(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"a": 3, "b": 3})
    shutil.move(root / "b", tmp_path / "elsewhere")
    (root / "b").symlink_to(tmp_path / "elsewhere")
    assert load_dataset(root).classes == ("a", "b")


def test_pictures_that_are_left_out_are_counted_and_named(make_folder: MakeFolder) -> None:
    """Of kinds that nothing here decodes, beside class folders, or with a broken note of how they are turned."""
    root = make_folder({"a": 10, "b": 10})
    (root / "a" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    shutil.copy(root / "a" / "000.png", root / "loose.png")
    (root / "b" / "note.txt").write_text("no picture", encoding="utf-8")
    (root / "b" / "torn.png").write_bytes(png_with_torn_exif())
    skipped = {s.path: s.reason for s in load_dataset(root).skipped}
    assert skipped.keys() == {"a/phone.heic", "loose.png", "b/torn.png"}
    assert "HEIC is not read; convert it to JPEG, with heif-convert" in skipped["a/phone.heic"]
    assert "belongs to no class" in skipped["loose.png"]
