from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hwautoml.datasets import Augment, ImageDataset, load_dataset
from hwautoml.datasets.pixels import MemoryPixels, StreamedPixels
from hwautoml.errors import DatasetError, InvalidValueError

MakeFolder = Callable[..., Path]


@pytest.fixture(params=["in memory", "streamed"])
def dataset(request: pytest.FixtureRequest, make_folder: MakeFolder) -> ImageDataset:
    limit = 0 if request.param == "streamed" else 2**30
    return load_dataset(make_folder({"a": 12, "b": 12}, suffix=".jpg"), in_memory_limit_bytes=limit)


def test_one_pass_gives_every_image_once(dataset: ImageDataset) -> None:
    split = dataset.train
    batches = list(split.batches(5))
    assert [len(labels) for _, labels in batches] == [5, 5, 5, 1]
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert torch.equal(labels, split.labels)
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy().astype(np.uint8), split.images_uint8())


def test_form_of_a_batch(dataset: ImageDataset) -> None:
    images, labels = next(iter(dataset.val.batches(2)))
    assert images.dtype == torch.float32
    assert images.shape == (2, 3, 32, 32)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.dtype == torch.int64
    assert images.max() > 1
    assert torch.equal(images, images.round())


def test_drop_last(dataset: ImageDataset) -> None:
    assert [len(labels) for _, labels in dataset.train.batches(5, drop_last=True)] == [5, 5, 5]


def test_shuffle_is_seeded(dataset: ImageDataset) -> None:
    def order(seed: int) -> list[float]:
        batches = dataset.train.batches(4, shuffle=True, generator=torch.Generator().manual_seed(seed))
        return [float(image.sum()) for images, _ in batches for image in images]

    plain = [float(image.sum()) for images, _ in dataset.train.batches(4) for image in images]
    assert order(0) == order(0) != order(1)
    assert sorted(order(0)) == sorted(plain) and order(0) != plain


def test_labels_follow_shuffled_images(dataset: ImageDataset) -> None:
    label_of = {
        image.tobytes(): label
        for image, label in zip(dataset.train.images_uint8(), dataset.train.labels.tolist(), strict=True)
    }
    for images, labels in dataset.train.batches(4, shuffle=True):
        for image, label in zip(images.permute(0, 2, 3, 1).numpy().astype(np.uint8), labels.tolist(), strict=True):
            assert label_of[image.tobytes()] == label


def test_batches_are_copies(dataset: ImageDataset) -> None:
    before = dataset.train.images_uint8()
    for images, _ in dataset.train.batches(64, resolution=32):
        images.zero_()
    assert np.array_equal(dataset.train.images_uint8(), before)


@pytest.mark.parametrize("resolution", [16, 24, 48])
def test_resolution_is_resized_as_pillow_does(dataset: ImageDataset, resolution: int) -> None:
    resized = dataset.test.images_uint8(resolution)
    for small, large in zip(resized, dataset.test.images_uint8(), strict=True):
        wanted = np.asarray(Image.fromarray(large).resize((resolution, resolution), Image.Resampling.BILINEAR))
        assert np.abs(small.astype(int) - wanted).max() <= 1
    images, _ = next(iter(dataset.test.batches(100, resolution=resolution)))
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), resized)


def test_raw_picks_images(dataset: ImageDataset) -> None:
    everything = dataset.val.images_uint8(16)
    assert np.array_equal(dataset.val.raw([3, 0, 3], 16), everything[[3, 0, 3]])
    assert everything.dtype == np.uint8 and everything.flags["C_CONTIGUOUS"]


def test_bad_arguments(dataset: ImageDataset) -> None:
    with pytest.raises(InvalidValueError, match="batch_size=0"):
        dataset.train.batches(0)
    with pytest.raises(InvalidValueError, match="resolution=0"):
        dataset.train.batches(2, resolution=0)


def test_streamed_and_in_memory_sets_are_the_same(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 30, "b": 30}, suffix=".jpg", size=(50, 41))
    one = load_dataset(root)
    other = load_dataset(root, in_memory_limit_bytes=0)
    assert isinstance(one.train.pixels, MemoryPixels)
    assert isinstance(other.train.pixels, StreamedPixels)
    assert (one.fingerprint, one.mean, one.std) == (other.fingerprint, other.mean, other.std)
    augment = Augment(flip=True, rotation_degrees=5, cutout_fraction=0.2)
    batches = []
    for dataset in (one, other):
        generator = torch.Generator().manual_seed(1)
        batches.append(
            list(dataset.train.batches(7, shuffle=True, augment=augment, generator=generator, resolution=24))
        )
    for (images, labels), (other_images, other_labels) in zip(*batches, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


def test_a_streamed_file_that_vanishes_is_named(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 5, "b": 5})
    dataset = load_dataset(root, in_memory_limit_bytes=0)
    for path in root.rglob("*.png"):
        path.unlink()
    with pytest.raises(DatasetError, match=r"000\.png can no longer be read"):
        list(dataset.train.batches(64))


def test_an_abandoned_stream_ends_its_threads(make_folder: MakeFolder) -> None:
    import threading

    dataset = load_dataset(make_folder({"a": 20, "b": 20}), in_memory_limit_bytes=0)
    before = threading.active_count()
    batches = dataset.train.batches(2)
    next(iter(batches))
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() <= before
