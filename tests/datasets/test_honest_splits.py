"""Copies, groups and leaks: what must not lie in two splits at once."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from hwautoml.datasets import ImageDataset, load_dataset
from hwautoml.datasets.copies import find_copies, joined, near_pairs, with_names
from hwautoml.datasets.looks import looks_of
from hwautoml.datasets.splitting import SPLITS, Labelling, assign_splits
from hwautoml.errors import DatasetError
from tests.datasets.shared import case, finding

Picture = Callable[..., Image.Image]


def photos(count: int, side: int = 32, seed: int = 0) -> list[Image.Image]:
    """Smooth random pictures, unlike each other."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return [Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC) for picture in coarse]


def saved_anew(image: Image.Image, quality: int = 75) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue()))


def digests(dataset: ImageDataset) -> dict[str, set[bytes]]:
    return {split: {image.tobytes() for image in getattr(dataset, split).images_uint8()} for split in SPLITS}


def test_copies_are_found_however_they_were_saved() -> None:
    originals = photos(40)
    changed = [saved_anew(originals[3]), ImageEnhance.Brightness(originals[4]).enhance(0.8)]
    changed += [originals[5].resize((48, 48)).resize((32, 32)), originals[6]]
    copies = find_copies(looks_of(np.stack([np.asarray(image) for image in originals + changed])))
    assert [copies.near[40 + i] == copies.near[3 + i] for i in range(4)] == [True] * 4
    assert [copies.exact[40 + i] == copies.exact[3 + i] for i in range(4)] == [False] * 3 + [True]
    assert len(set(copies.near[:40].tolist())) == 40 and not copies.are_all_alike


def test_pairs_are_those_that_comparing_all_with_all_finds() -> None:
    rng = np.random.default_rng(0)
    thumbnails = rng.integers(0, 256, (30, 16, 16)).astype(float)
    thumbnails = np.concatenate([thumbnails, thumbnails[:12] + rng.normal(0, 6, (12, 16, 16))])
    thumbnails = (
        np.concatenate(
            [thumbnails, thumbnails[:20] + rng.normal(0, 9, (20, 16, 16)) * np.linspace(0.1, 2, 20)[:, None, None]]
        )
        .clip(0, 255)
        .astype(np.uint8)
    )
    flat = thumbnails.reshape(len(thumbnails), -1).astype(float)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    distances = np.linalg.norm(flat[:, None] - flat, axis=2)
    wanted = {(i, j) for i, j in np.argwhere(distances <= 0.15).tolist() if i < j}
    assert {tuple(pair) for pair in near_pairs(thumbnails).tolist()} == wanted and wanted


def test_nearly_flat_pictures_are_nobodys_copy() -> None:
    noise = np.random.default_rng(0).integers(100, 104, (50, 16, 16)).astype(np.uint8)
    assert len(near_pairs(noise)) == 0


def test_parts_before_one_camera_are_no_copies() -> None:
    """All of them alike but for a small fault: grouping them would leave nothing to split."""
    base = np.asarray(photos(1)[0])
    rng = np.random.default_rng(0)
    images = np.stack([base] * 60).copy()
    for image in images:
        row, column = rng.integers(0, 30, 2)
        image[row : row + 2, column : column + 2] = rng.integers(0, 256)
    copies = find_copies(looks_of(images))
    assert copies.are_all_alike and np.array_equal(copies.near, copies.exact)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_joining_is_an_equivalence(pairs: list[tuple[int, int]]) -> None:
    found = joined(np.arange(10), np.array(pairs, dtype=np.int64).reshape(-1, 2))
    reach = np.eye(10, dtype=bool)
    for i, j in pairs:
        reach[i, j] = reach[j, i] = True
    for _ in range(10):
        reach = reach | (reach.astype(int) @ reach.astype(int) > 0)
    assert np.array_equal(found[:, None] == found, reach)


def test_names_join_groups() -> None:
    assert with_names(np.array([0, 1, 2, 3]), ["x", "", "x", ""]).tolist() == [0, 1, 0, 3]


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 6)), min_size=12, max_size=40),
    st.integers(0, 3),
)
def test_groups_stay_whole_and_shares_are_kept(sizes: list[tuple[int, int]], seed: int) -> None:
    sizes = [*sizes, *((label, 1) for label in (0, 1, 2) for _ in range(3))]
    labels = np.concatenate([np.full(size, label) for label, size in sizes])
    groups = np.concatenate([np.full(size, number) for number, (_, size) in enumerate(sizes)])
    order = np.random.default_rng(seed).permutation(len(labels))
    labelling = Labelling(labels[order], [""] * len(labels), ("a", "b", "c"), groups[order], "x")
    parts = assign_splits(labelling, val_fraction=0.15, test_fraction=0.2, seed=seed)
    assert sorted(np.concatenate([parts[s] for s in SPLITS])) == list(range(len(labels)))
    places = [set(labelling.groups[parts[s]].tolist()) for s in SPLITS]
    assert not places[0] & places[1] and not places[0] & places[2] and not places[1] & places[2]
    for label in range(3):
        number = int((labels == label).sum())
        for name, fraction in (("val", 0.15), ("test", 0.2)):
            count = int((labelling.labels[parts[name]] == label).sum())
            assert 1 <= count <= max(1, fraction * number + 3 + 1)


def test_groups_of_several_classes_are_shared_out() -> None:
    """Patients that all have pictures of both classes."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), rng.integers(2, 9, 30))
    labels = np.concatenate([np.arange(count) % 2 for count in np.bincount(groups)])
    labelling = Labelling(labels, [""] * len(labels), ("a", "b"), groups, "x")
    parts = assign_splits(labelling, val_fraction=0.15, test_fraction=0.2, seed=0)
    for name, fraction in (("val", 0.15), ("test", 0.2)):
        assert not set(groups[parts[name]]) & set(groups[parts["train"]])
        for label in (0, 1):
            share = (labels[parts[name]] == label).sum() / (labels == label).sum()
            assert share == pytest.approx(fraction, abs=0.05)


def write(root: Path, name: str, image: Image.Image) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    image.save(root / name)


def test_no_copy_lies_in_two_splits(tmp_path: Path) -> None:
    """30 % of a set are copies, a third of them saved anew, under other names."""
    for number, image in enumerate(photos(140)):
        write(tmp_path, f"{'ab'[number % 2]}/{number:03d}.png", image)
        if number < 60:
            copy = saved_anew(image) if number % 3 == 0 else image
            write(tmp_path, f"{'ab'[number % 2]}/copy{(number * 37) % 101:03d}.png", copy)
    dataset = load_dataset(tmp_path)
    parts = digests(dataset)
    assert not parts["train"] & parts["val"] and not parts["train"] & parts["test"] and not parts["val"] & parts["test"]
    assert finding(dataset, "exact-copies").count == 40 and finding(dataset, "near-copies").count == 20
    assert not [f for f in dataset.findings if f.kind == "leak"]
    assert 30 <= dataset.test.num_images <= 50


def test_given_splits_that_leak_are_reported_with_the_number(tmp_path: Path) -> None:
    pictures = photos(60)
    for number, image in enumerate(pictures):
        write(tmp_path, f"{'test' if number >= 40 else 'train'}/{'ab'[number % 2]}/{number}.png", image)
    write(tmp_path, "test/a/x.png", pictures[0])
    write(tmp_path, "test/b/y.png", saved_anew(pictures[1]))
    dataset = load_dataset(tmp_path)
    leaks = [f for f in dataset.findings if f.kind == "leak"]
    assert sum(f.count for f in leaks) == 2 and all(f.severity == "warn" for f in leaks)
    assert "of 22 test images have a copy in" in leaks[0].message
    assert {group for f in leaks for group in f.examples} == {
        ("test/a/x.png", "train/a/0.png"),
        ("test/b/y.png", "train/b/1.png"),
    }


def test_labels_that_contradict_each_other_are_named(tmp_path: Path) -> None:
    for number, image in enumerate(photos(20)):
        write(tmp_path, f"{'ab'[number % 2]}/{number}.png", image)
        if number == 4:
            write(tmp_path, "b/again.png", image)
    found = finding(load_dataset(tmp_path), "contradicting-labels")
    assert found.count == 1 and found.examples == (("a/4.png", "b/again.png"),)
    assert "a/4.png (class 'a') and b/again.png (class 'b')" in found.message


def test_a_class_of_one_picture_is_refused_in_words(tmp_path: Path) -> None:
    for number, image in enumerate(photos(8)):
        write(tmp_path, f"a/{number}.png", image)
        write(tmp_path, f"b/{number}.png", Image.new("RGB", (32, 32), "red"))
    with pytest.raises(DatasetError, match=r"copies cannot be kept in one split: class 'b'"):
        load_dataset(tmp_path)
    worst = load_dataset(tmp_path, is_tolerant=True).findings[0]
    assert (worst.severity, worst.kind) == ("refuse", "only-copies")
    assert "class 'b'" in worst.message and "8 usable image(s) in 1 group(s)" in worst.message


@pytest.mark.parametrize("group", ["**/{group}_*.png", "{group}_*"])
def test_groups_by_pattern(tmp_path: Path, group: str) -> None:
    for number, image in enumerate(photos(60)):
        write(tmp_path, f"{'ab'[number % 2]}/clip{number % 2}{number // 6}_{number}.png", image)
    if not group.startswith("**"):
        with pytest.raises(DatasetError, match=r"no image matches the pattern of groups '\{group\}_\*'"):
            load_dataset(tmp_path, group=group)
        return
    dataset = load_dataset(tmp_path, group=group)
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    clip_of = {np.asarray(Image.open(tmp_path / n)).tobytes(): n.split("_")[0] for n in names}
    places = [{clip_of[digest] for digest in part} for part in digests(dataset).values()]
    assert not places[0] & places[1] and not places[0] & places[2] and not places[1] & places[2]


def test_groups_by_column_and_too_few_of_them(tmp_path: Path) -> None:
    lines = ["path,label,patient"]
    for number, image in enumerate(photos(30)):
        write(tmp_path, f"{number}.png", image)
        lines.append(f"{number}.png,{'ab'[number % 2]},{number % 2}{number // 2 % 2}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    assert len(load_dataset(tmp_path).classes) == 2
    with pytest.raises(
        DatasetError, match=r"class 'a' .* has 15 usable image\(s\) in 2 group\(s\) that belong together"
    ):
        load_dataset(tmp_path, group="patient")
    with pytest.raises(DatasetError, match="has no column 'person'; it has path, label, patient"):
        load_dataset(tmp_path, group="person")


def test_groups_that_given_splits_tear_apart(tmp_path: Path) -> None:
    for number, image in enumerate(photos(40)):
        write(tmp_path, f"{'train' if number < 30 else 'test'}/{'ab'[number % 2]}/p{number % 7}_{number}.png", image)
    found = finding(load_dataset(tmp_path, group="**/{group}_*"), "torn-groups")
    assert found.count == 7 and "7 of 7 groups" in found.message


def test_the_reported_frames(tmp_path: Path) -> None:
    dataset = load_dataset(case("frames"))
    parts = digests(dataset)
    assert not parts["train"] & parts["test"] and not parts["train"] & parts["val"]
    assert finding(dataset, "exact-copies").count == 168
