"""What files hold, and what training sees of it: every kind against a reference that is stated here."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from hwautoml.core.pixel_rule import BLACK, GREY, WHITE, PixelRule
from hwautoml.datasets import load_dataset
from hwautoml.datasets.decoding import UnusableImageError, decode_image
from hwautoml.datasets.levels import find_levels, range_of, to_eight_bits
from hwautoml.datasets.probing import choose_background
from hwautoml.errors import InvalidValueError
from tests.datasets.shared import case, finding

MakeFolder = Callable[..., Path]
SIDE = 16
RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
DEEP = RNG.integers(29_978, 30_184, (SIDE, SIDE))
LEVELS = (29_978.0, 30_183.0)


def file_of(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def on_ground(values: np.ndarray, alpha: np.ndarray, ground: int) -> np.ndarray:
    share = alpha.astype(float) / 255
    if values.ndim == 3:
        share = share[..., None]
    return values * share + ground * (1 - share)


def make(mode: str) -> tuple[Image.Image, np.ndarray]:
    """A picture of that mode and its reference, (H, W, 3) in 0..255, on a black ground."""
    grey, three = COLOUR[..., 0], COLOUR.astype(float)
    if mode in ("LA", "RGBA"):
        image = Image.fromarray(grey if mode == "LA" else COLOUR)
        image.putalpha(Image.fromarray(ALPHA))
        wanted = on_ground(grey if mode == "LA" else three, ALPHA, BLACK)
    elif mode == "P":  # 4 colours, the first one transparent
        numbers = (grey // 64).astype(np.uint8)
        image = Image.fromarray(numbers).convert("P")
        palette = COLOUR[0, :4]
        image.putpalette(palette.tobytes())
        image.info["transparency"] = 0
        wanted = palette[numbers] * (numbers != 0)[..., None]
    elif mode == "1":
        image, wanted = Image.fromarray(grey > 127), 255.0 * (grey > 127)
    elif mode in ("I;16", "I", "F"):
        dtype = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image, wanted = Image.fromarray(DEEP.astype(dtype)), 255 * (DEEP - LEVELS[0]) / (LEVELS[1] - LEVELS[0])
    elif mode == "CMYK":
        image = Image.fromarray(np.dstack([COLOUR, ALPHA]), "CMYK")
        wanted = (255 - three) * (255 - ALPHA[..., None].astype(float)) / 255
    else:
        image, wanted = Image.fromarray(grey if mode == "L" else COLOUR), grey if mode == "L" else three
    return image, np.broadcast_to(wanted[..., None], (SIDE, SIDE, 3)) if wanted.ndim == 2 else wanted


MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "TIFF": ("1", "L", "LA", "RGB", "RGBA", "CMYK", "I;16", "I", "F"),
    "BMP": ("1", "L", "RGB"),
    "GIF": ("L", "P"),
    "WEBP": ("RGB", "RGBA"),
    "PPM": ("1", "L", "RGB", "I;16", "I", "F"),
}


@pytest.mark.parametrize(("file_format", "mode"), [(f, mode) for f, modes in MODES.items() for mode in modes])
def test_pixels_are_those_of_the_reference(file_format: str, mode: str) -> None:
    image, wanted = make(mode)
    options: dict[str, object] = {"lossless": True, "exact": True} if file_format == "WEBP" else {}
    try:
        data = file_of(image, file_format, **options)
    except OSError as error:
        pytest.skip(f"this Pillow writes no such file: {error}")
    found = decode_image(data, SIDE, 3, PixelRule(LEVELS, background=BLACK)).pixels
    assert np.abs(found - wanted).max() <= 1.0


def test_a_profile_changes_nothing_and_animations_give_their_first_picture() -> None:
    from PIL import ImageCms

    plain = decode_image(file_of(Image.fromarray(COLOUR), "PNG"), SIDE, 3, PixelRule()).pixels
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    tagged = file_of(Image.fromarray(COLOUR), "PNG", icc_profile=profile)
    assert np.array_equal(decode_image(tagged, SIDE, 3, PixelRule()).pixels, plain)
    second = Image.new("RGB", (SIDE, SIDE), "blue")
    for file_format in ("TIFF", "PNG"):
        data = file_of(Image.fromarray(COLOUR), file_format, save_all=True, append_images=[second])
        decoded = decode_image(data, SIDE, 3, PixelRule())
        assert decoded.facts.has_more and np.array_equal(decoded.pixels, plain)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(200), "HEIC is not read; convert it to JPEG"),
        (bytes(128) + b"DICM" + bytes(200), "DICOM is not read; save its pixels as 16-bit PNG"),
        (b"<!DOCTYPE html><html>", "a web page, not an image"),
        (b"nonsense", "not an image, or an unknown format"),
        (file_of(Image.fromarray(DEEP.astype(np.uint16)), "PNG"), "more than 8 bits.*range is not known"),
    ],
)
def test_what_is_not_read_is_named(data: bytes, message: str) -> None:
    with pytest.raises(UnusableImageError, match=message):
        decode_image(data, SIDE, 3, PixelRule())


@given(
    arrays.arrays(np.float32, (5, 7), elements=st.floats(width=32)),
    st.floats(-1e6, 1e6),
    st.floats(1e-3, 1e6),
)
def test_scaling_is_monotone_and_spans_all_levels(values: np.ndarray, low: float, span: float) -> None:
    levels = (low, low + span)
    found = to_eight_bits(values, levels)
    assert to_eight_bits(np.array([[low, low + span]]), levels).tolist() == [[0, 255]]
    assert (found[np.isnan(values)] == 0).all()
    known = ~np.isnan(values)
    order = np.argsort(values[known])
    assert (np.diff(found[known][order].astype(int)) >= 0).all()


def test_parts_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = to_eight_bits(DEEP, LEVELS)
    monkeypatch.setattr("hwautoml.datasets.levels.PART_PIXELS", 3 * SIDE)
    assert np.array_equal(to_eight_bits(DEEP, LEVELS), whole)


def test_levels_forget_dead_pixels_and_odd_pictures() -> None:
    rng = np.random.default_rng(1)
    pictures = [rng.integers(1000, 1200, (50, 50)) for _ in range(200)]
    for picture in pictures:
        picture[3, 4], picture[9, 9] = 0, 65535
    pictures[7] = pictures[7] * 40
    ranges = [found for found in map(range_of, pictures) if found is not None]
    levels = find_levels(ranges)
    assert levels is not None and levels == pytest.approx((1000, 1199), abs=2)
    assert find_levels([]) is None
    assert find_levels([(7.0, 7.0)]) == (7.0, 14.0)
    assert range_of(np.array([np.nan, np.inf])) is None


def test_rule_to_json_and_back() -> None:
    for rule in (PixelRule(), PixelRule((0.5, 9.0), GREY)):
        assert PixelRule.from_json(rule.to_json()) == rule
    assert PixelRule.from_json({"resolution": 8}) == PixelRule()
    for levels in ((2.0, 2.0), (0.0, float("inf"))):
        with pytest.raises(InvalidValueError, match="low < high"):
            PixelRule(levels)


def icon(colour: int) -> np.ndarray:
    picture = np.full((8, 8, 4), (colour, colour, colour, 0), dtype=np.uint8)
    picture[2:6, 2:6, 3] = 255
    return picture


def test_the_background_is_the_one_that_shows_most() -> None:
    assert choose_background([]) == WHITE
    assert choose_background([icon(0), icon(100)]) == WHITE
    assert choose_background([icon(255)] * 3 + [icon(90)]) == BLACK
    assert choose_background([icon(255), icon(0)] * 3) == GREY


def write(root: Path, pictures: dict[str, Image.Image], suffix: str = ".png") -> Path:
    for path, image in pictures.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        image.save(root / f"{path}{suffix}")
    return root


def test_the_levels_are_those_of_the_training_set(tmp_path: Path) -> None:
    """A test set that is brighter has no say."""
    rng = np.random.default_rng(2)
    pictures = {}
    for split, count, top in (("train", 20, 200), ("test", 5, 9000)):
        for name in "ab":
            for i in range(count):
                pictures[f"{split}/{name}/{i}"] = Image.fromarray(
                    (3000 + rng.integers(0, top + 1, (16, 16))).astype(np.uint16)
                )
    dataset = load_dataset(write(tmp_path, pictures))
    assert dataset.channels == 1
    assert dataset.pixel_rule.levels == pytest.approx((3000, 3200), abs=2)
    assert "become 0 to 255" in finding(dataset, "deep").message
    assert dataset.train.images_uint8().std() > 60
    streamed = load_dataset(tmp_path, in_memory_limit_bytes=0)
    assert np.array_equal(streamed.test.images_uint8(), dataset.test.images_uint8())


def test_depths_that_are_mixed_are_warned_of(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    pictures = {
        f"{name}/{i}": Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)) for name in "ab" for i in "12345"
    }
    pictures["a/1"] = Image.fromarray(DEEP.astype(np.uint16))
    assert finding(load_dataset(write(tmp_path, pictures)), "mixed-depths").severity == "warn"


def test_rules_come_back_from_the_cache(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    values = rng.integers(3000, 4000, (10, 16, 16), dtype=np.uint16)
    pictures = {f"{'ab'[i % 2]}/{i}": Image.fromarray(value) for i, value in enumerate(values)}
    root = write(tmp_path / "data", pictures)
    first = load_dataset(root, cache_dir=tmp_path / "cache")
    again = load_dataset(root, cache_dir=tmp_path / "cache")
    assert (again.pixel_rule, again.findings) == (first.pixel_rule, first.findings)


@pytest.mark.parametrize("name", ["thermal", "alpha", "mixed"])
def test_reported_cases_keep_their_contrast(name: str) -> None:
    dataset = load_dataset(case(name))
    pixels = dataset.train.images_uint8()
    assert pixels.std(axis=(1, 2)).max(axis=1).min() > 20
    assert "refuse" not in {finding.severity for finding in dataset.findings}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["thermal", "alpha", "mixed"])
def test_reported_cases_can_be_learnt(name: str) -> None:
    """By a small network in seconds; nothing but the shape tells their two classes apart."""
    import torch
    from torch import nn

    dataset = load_dataset(case(name), image_size=24, channels=1)
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.BatchNorm2d(1)]
    for inside, outside in ((1, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU(), nn.MaxPool2d(2)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 9, 2))
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        for images, labels in dataset.train.batches(32, shuffle=True, generator=generator):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
    network.eval()
    right = [(network(images).argmax(1) == labels).float() for images, labels in dataset.test.batches(64, augment=None)]
    assert torch.cat(right).mean() >= 0.9
