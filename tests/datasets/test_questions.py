"""What is asked of images before training: each question with data that answers it either way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hwautoml.core.finding import worst_first
from hwautoml.datasets import doubts, load_dataset
from hwautoml.datasets.looks import looks_of
from hwautoml.datasets.questions import content_findings, file_findings, label_findings
from hwautoml.datasets.scan import channel_sums
from hwautoml.datasets.suspicious_labels import suspicious_labels
from hwautoml.errors import DatasetError
from tests.datasets.shared import case, finding

MakeFolder = Callable[..., Path]
RNG = np.random.default_rng(0)
CLASSES = ("a", "b")


def kinds(findings: list) -> dict[str, str]:
    return {f.kind: f.severity for f in findings}


def flat_findings(num_flat: int, num_noisy: int) -> list:
    images = RNG.integers(0, 256, (num_flat + num_noisy, 8, 8, 3), dtype=np.uint8)
    images[:num_flat] = RNG.integers(100, 102, (num_flat, 8, 8, 3))  # one flat colour, but for a grey level
    labels = np.array([0] * num_flat + [1] * num_noisy)
    names = [f"{i}.png" for i in range(len(images))]
    return content_findings(names, channel_sums(images), 64, labels, CLASSES)


def test_pictures_of_one_flat_colour() -> None:
    assert flat_findings(0, 5) == []
    (some,) = flat_findings(3, 17)
    assert (some.severity, some.kind, some.count) == ("warn", "flat", 3)
    assert "3 of 20 images are one flat colour, or nearly; all of a" in some.message
    assert some.examples[0] == ("0.png",)
    (most,) = flat_findings(11, 9)
    assert most.severity == "refuse" and "nothing to learn from" in most.message


def test_a_set_that_lost_its_content_is_refused(tmp_path: Path) -> None:
    """As by an export that wrote every value above 255 as 255."""
    for number in range(20):
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (number, 250, 250)).save(tmp_path / "ab"[number % 2] / f"{number}.png")
    with pytest.raises(DatasetError, match="20 of 20 images are one flat colour"):
        load_dataset(tmp_path)
    assert finding(load_dataset(tmp_path, is_tolerant=True), "flat").severity == "refuse"


def test_classes_and_test_sets_that_are_too_small() -> None:
    assert kinds(label_findings({"a": 900, "b": 1000}, 800)) == {}
    assert kinds(label_findings({"a": 9, "b": 12}, 4)) == {"small-classes": "warn", "small-test": "warn"}
    assert kinds(label_findings({"a": 90, "b": 120}, 40)) == {"small-test": "note"}
    assert "1 of 2 classes have fewer than 10 images: a (9)" in label_findings({"a": 9, "b": 12}, 4)[0].message
    assert "90 % means 74% to 97%" in label_findings({"a": 90, "b": 120}, 30)[0].message


def test_imbalance() -> None:
    (found,) = label_findings({"ok": 9500, "fault": 500}, 2000)
    assert found.kind == "imbalance" and "ok has 19 times as many images as fault" in found.message
    assert "always saying ok is 95% right" in found.message


def test_broken_and_left_out_files_and_what_is_cut_off(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 12, "b": 12}, size=(64, 16))
    (root / "a" / "x.png").write_bytes(b"nonsense")
    (root / "b" / "scan.dcm").write_bytes(b"x")
    found = {f.kind: f for f in load_dataset(root, fit="crop").findings}
    assert "skipped 1 of 25 images that cannot be read: a/x.png" in found["broken-files"].message
    assert "left out 1 pictures: b/scan.dcm (DICOM is not read" in found["left-out"].message
    assert "cuts off 75% of half of the images" in found["cut-off"].message
    assert file_findings({}, {}, [None], "crop") == []


def blobs(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy pictures of two kinds: bright above, or bright below."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, number)
    images = rng.integers(0, 120, (number, 16, 16, 1))
    images[labels == 0, :8] += 100
    images[labels == 1, 8:] += 100
    return images.astype(np.uint8), labels


def test_labels_that_the_other_images_contradict() -> None:
    images, labels = blobs(300, 0)
    names = [str(i) for i in range(300)]
    thumbnails = looks_of(images).thumbnails
    assert suspicious_labels(thumbnails, labels, names, CLASSES) == []
    wrong = [7, 70, 170]
    labels[wrong] = 1 - labels[wrong]
    (found,) = suspicious_labels(thumbnails, labels, names, CLASSES)
    assert sorted(int(name) for (name,) in found.examples) == wrong
    assert "3 of 300 labels" in found.message and "looks like" in found.message
    coin = np.random.default_rng(1).integers(0, 2, 300)
    assert suspicious_labels(thumbnails, coin, names, CLASSES) == []


def test_doubts_of_a_loaded_set_are_named_by_file() -> None:
    images, labels = blobs(200, 1)
    labels[11] = 1 - labels[11]
    (found,) = doubts(load_dataset((images, labels)))
    assert found.examples == (("image 11",),)


def test_the_worst_comes_first() -> None:
    findings = [*label_findings({"a": 90, "b": 120}, 40), *flat_findings(11, 9), *flat_findings(3, 17)]
    assert [f.severity for f in worst_first(findings)] == ["refuse", "warn", "note"]


def test_the_reported_imbalance() -> None:
    assert finding(load_dataset(case("imbalance_never")), "imbalance").severity == "warn"
