from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hwautoml.datasets import Augment, default_augment
from hwautoml.errors import InvalidValueError


def ramp(number: int = 8, channels: int = 3, side: int = 16) -> torch.Tensor:
    """uint8 images in which every pixel of an image differs from every other."""
    values = torch.arange(side * side, dtype=torch.uint8).view(1, 1, side, side)
    return values.expand(number, channels, side, side).contiguous(memory_format=torch.channels_last)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_nothing_asked_for_changes_nothing() -> None:
    images = ramp()
    changed = Augment(shift_fraction=0)(images)
    assert changed.dtype == torch.float32
    assert torch.equal(changed, images.float())


@pytest.mark.parametrize("fill", ["reflect", "edge"])
def test_shift_is_pad_and_crop(fill: str) -> None:
    images = ramp(64)
    changed = Augment(shift_fraction=0.125, fill=fill)(images, seeded())
    mode = "reflect" if fill == "reflect" else "replicate"
    padded = torch.nn.functional.pad(images.float(), (2, 2, 2, 2), mode=mode)
    crops = [padded[:, :, y : y + 16, x : x + 16] for y in range(5) for x in range(5)]
    found = {next(i for i, crop in enumerate(crops) if torch.equal(crop[n], changed[n])) for n in range(64)}
    assert len(found) > 15  # of 25: each image has its own


def test_flip_mirrors_about_half() -> None:
    images = ramp(400)
    changed = Augment(shift_fraction=0, flip=True)(images, seeded())
    mirrored = sum(torch.equal(changed[i], images[i].float().flip(-1)) for i in range(400))
    same = sum(torch.equal(changed[i], images[i].float()) for i in range(400))
    assert mirrored + same == 400
    assert 150 < mirrored < 250


def test_cutout_blanks_one_square() -> None:
    changed = Augment(shift_fraction=0, cutout_fraction=0.5)(torch.zeros(200, 1, 16, 16), seeded())
    blanked = (changed == 127.5).float().mean()
    assert 0.1 < float(blanked) <= 0.25


def test_rotation_turns() -> None:
    image = torch.zeros(50, 1, 33, 33)
    image[:, :, 16, :] = 255
    changed = Augment(shift_fraction=0, rotation_degrees=20, fill="edge")(image, seeded())
    assert torch.allclose(changed[:, 0, 16, 16], torch.tensor(255.0), atol=1)
    assert (changed[:, 0, 16, 0] < 200).float().mean() > 0.5


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 9),
    st.sampled_from([1, 3]),
    st.integers(1, 20),
    st.booleans(),
    st.sampled_from(["reflect", "edge"]),
    st.floats(0, 0.5),
    st.integers(0, 99),
)
def test_any_shape_stays_in_range_and_is_seeded(
    number: int, channels: int, side: int, flip: bool, fill: str, shift: float, seed: int
) -> None:
    images = torch.randint(0, 256, (number, channels, side, side), dtype=torch.uint8)
    augment = Augment(shift, flip, fill, rotation_degrees=10, cutout_fraction=0.3)
    changed = augment(images, seeded(seed))
    assert changed.shape == images.shape
    assert changed.is_contiguous(memory_format=torch.channels_last)
    assert float(changed.min()) >= 0 and float(changed.max()) <= 255.001
    assert torch.equal(changed, augment(images, seeded(seed)))
    assert torch.equal(changed, augment(images.float(), seeded(seed)))


def test_the_original_is_left_alone() -> None:
    images = ramp().float()
    before = images.clone()
    Augment(flip=True, rotation_degrees=10, cutout_fraction=0.5)(images)
    assert torch.equal(images, before)


def test_defaults() -> None:
    assert default_augment(SimpleNamespace(channels=3)).flip
    assert not default_augment(SimpleNamespace(channels=1)).flip


@pytest.mark.parametrize("values", [{"shift_fraction": 0.6}, {"cutout_fraction": 1.0}, {"fill": "black"}])
def test_bad_values(values: dict) -> None:
    with pytest.raises(InvalidValueError):
        Augment(**values)
