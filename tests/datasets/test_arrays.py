from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from hwautoml.datasets import load_dataset
from hwautoml.errors import DatasetError, MissingDependencyError

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
LABELS = np.arange(20) % 4


def save(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)
    return path


def test_digits() -> None:
    dataset = load_dataset("digits")
    assert dataset.classes == tuple("0123456789")
    assert (dataset.name, dataset.image_size, dataset.channels) == ("digits", 8, 1)
    assert dataset.train.num_images + dataset.val.num_images + dataset.test.num_images == 1797
    assert dataset.train.images_uint8().max() == 255
    assert dataset.fingerprint == load_dataset("digits", seed=5).fingerprint


def test_a_folder_called_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for source in (Path("digits"), "./digits"):
        with pytest.raises(DatasetError, match="no such file or folder"):
            load_dataset(source)


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependencyError, match="pip install scikit-learn"):
        load_dataset("digits")


def test_digits_resized_to_colour() -> None:
    dataset = load_dataset("digits", image_size=16, channels=3)
    assert dataset.train.raw([0]).shape == (1, 16, 16, 3)


@pytest.mark.parametrize("labels", [LABELS, LABELS.astype(np.uint8), LABELS * 10 - 7])
def test_npz_with_numbers(tmp_path: Path, labels: np.ndarray) -> None:
    dataset = load_dataset(save(tmp_path / "set.npz", x=COLOUR, y=labels))
    assert dataset.classes == tuple(str(value) for value in sorted(set(labels.tolist())))
    assert (dataset.name, dataset.image_size, dataset.channels) == ("set", 16, 3)


def test_npz_with_texts_and_grey_images(tmp_path: Path) -> None:
    names = np.array(["dog", "cat"])[LABELS % 2]
    dataset = load_dataset(save(tmp_path / "set.npz", x=COLOUR[..., 0], y=names))
    assert dataset.classes == ("cat", "dog")
    assert dataset.channels == 1
    for split in (dataset.train, dataset.val, dataset.test):
        for image, label in zip(split.images_uint8(), split.labels.tolist(), strict=True):
            index = next(i for i in range(20) if np.array_equal(COLOUR[i, :, :, :1], image))
            assert names[index] == dataset.classes[label]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": COLOUR}, r"lacks y; it has \['x'\]"),
        ({"images": COLOUR, "labels": LABELS}, "lacks x and y"),
        ({"x": COLOUR.astype(str), "y": LABELS}, "x in .* is <U3; expected numbers"),
        ({"x": COLOUR.reshape(20, -1), "y": LABELS}, r"has shape \(20, 768\); expected \(N, H, W\)"),
        ({"x": COLOUR.transpose(0, 3, 1, 2), "y": LABELS}, r"transpose\(0, 2, 3, 1\)"),
        ({"x": COLOUR[..., :2], "y": LABELS}, r"has shape \(20, 16, 16, 2\)"),
        ({"x": COLOUR[:0], "y": LABELS[:0]}, r"has shape \(0, 16, 16, 3\)"),
        ({"x": COLOUR, "y": LABELS[:7]}, r"y in .* has shape \(7,\); x has 20 images"),
        ({"x": COLOUR, "y": LABELS[:, None]}, r"y in .* has shape \(20, 1\)"),
        ({"x": COLOUR, "y": LABELS * 0.5}, "y in .* is float64; expected integers or texts"),
        ({"x": COLOUR, "y": LABELS * 0}, "one class only, '0'"),
        ({"x": COLOUR, "y": np.array([*LABELS[:-1], 9])}, "class '9' of set has 1 usable"),
        ({"x": COLOUR, "y": LABELS.astype(object)}, "cannot read .*Object arrays cannot be loaded"),
    ],
)
def test_bad_npz(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        load_dataset(save(tmp_path / "set.npz", **arrays))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint16"])
def test_known_ranges_are_kept(tmp_path: Path, dtype: str) -> None:
    """Fractions and bytes in a wider type mean what they mean in files."""
    wanted = load_dataset(save(tmp_path / "a.npz", x=COLOUR, y=LABELS))
    images = (COLOUR / 255 if dtype.startswith("float") else COLOUR).astype(dtype)
    dataset = load_dataset(save(tmp_path / "b.npz", x=images, y=LABELS))
    assert dataset.pixel_rule.levels == ((0, 1) if dtype.startswith("float") else (0, 255))
    assert np.array_equal(dataset.train.images_uint8(), wanted.train.images_uint8())


def test_other_ranges_are_scaled(tmp_path: Path) -> None:
    images = 30_000 + COLOUR[..., 0].astype(np.uint16) // 2
    images[0, 0, 0] = 65_535  # a dead pixel
    dataset = load_dataset(save(tmp_path / "set.npz", x=images, y=LABELS))
    assert dataset.pixel_rule.levels == pytest.approx((30_000, 30_127), abs=2)
    assert dataset.train.images_uint8().std() > 60


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut short", b"\x93NUMPY"])
def test_damaged_npz(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(DatasetError, match=r"cannot read .*set\.npz as an \.npz"):
        load_dataset(tmp_path / "set.npz")


def test_a_single_array_named_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "set.npy", COLOUR)
    (tmp_path / "set.npy").rename(tmp_path / "set.npz")
    with pytest.raises(DatasetError, match="cannot read"):
        load_dataset(tmp_path / "set.npz")


def test_truncated_npz(tmp_path: Path) -> None:
    path = save(tmp_path / "set.npz", x=COLOUR, y=LABELS)
    data = bytearray(path.read_bytes())
    data[500:600] = bytes(100)
    path.write_bytes(data)
    with pytest.raises(DatasetError, match="cannot read .*Bad CRC"):
        load_dataset(path)
