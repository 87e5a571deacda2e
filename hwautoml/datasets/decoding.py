"""Image files to uint8 arrays of one size, by a pool of threads (Pillow releases the GIL while it decodes)."""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from hwautoml.core.pixel_rule import GREY, Fit, PixelRule
from hwautoml.datasets.levels import to_eight_bits
from hwautoml.datasets.safety import READ_ERRORS
from hwautoml.datasets.sources import OTHER_SUFFIXES, FileSource

Progress = Callable[[int, int], None]

# Naming them keeps Pillow from trying exotic, less hardened decoders on untrusted files.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
DEEP_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
GREY_MODES = DEEP_MODES | {"1", "L", "LA", "La"}
COLOUR_MODES = frozenset({"P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV", "LAB"})
NUM_WORKERS = min(8, os.cpu_count() or 1)
CHUNK = 256
LARGE_PIXELS = 1 << 24
_LARGE = threading.BoundedSemaphore(2)
#: What Pillow's decoders, and its reader of EXIF, report damage by.
DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    TypeError,
    OverflowError,
    zlib.error,
    struct.error,
)


class UnusableImageError(Exception):
    """Internal: one image cannot be decoded; the text is the reason."""


@dataclass(frozen=True)
class PictureFacts:
    """What a file holds, before anything is made of it: pixels, Pillow's mode, more pictures than the first."""

    width: int
    height: int
    mode: str
    has_alpha: bool = False
    has_more: bool = False

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return 1 if self.mode in GREY_MODES else 3

    @property
    def is_deep(self) -> bool:
        return self.mode in DEEP_MODES


@dataclass(frozen=True)
class DecodedImage:
    """``pixels`` (size, size, channels) uint8."""

    pixels: NDArray[np.uint8]
    facts: PictureFacts


def decode_image(data: bytes, image_size: int, channels: int, rule: PixelRule) -> DecodedImage:
    """Decode, turn upright (EXIF), make it 8-bit and opaque by ``rule``, convert, and fit it into a square by ``rule``
    with Pillow's antialiased BILINEAR.

    ``hwautoml/bundles/runner/run.py`` repeats these steps; a test compares the two.

    Raises:
        UnusableImageError: not an image, truncated, far too large, or deep while ``rule`` has no levels.
    """
    with _opened(data) as image:
        facts = facts_of(image)
        image.draft(None, (2 * image_size, 2 * image_size))
        with _few_at_once(image):
            return DecodedImage(fit_image(image, image_size, channels, rule), facts)


@contextmanager
def _few_at_once(image: Image.Image) -> Iterator[None]:
    """Large pictures wait for each other, or as many as there are cores would fill the memory."""
    if image.width * image.height <= LARGE_PIXELS:
        yield
        return
    with _LARGE:
        yield


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """The picture in ``data``, its pixels not read yet; damage that shows while it is used is named, too."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnusableImageError(f"far larger than a photo, or a decompression bomb: {error}") from error
    except UnidentifiedImageError as error:
        raise UnusableImageError(foreign_format(data) or "not an image, or an unknown format") from error
    except DECODING_ERRORS as error:
        raise UnusableImageError(str(error) or type(error).__name__) from error


def foreign_format(data: bytes) -> str | None:
    """What the file is and what reads it, for kinds that are known by their first bytes."""
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    if brand in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
        return OTHER_SUFFIXES[".heic"]
    if brand in (b"avif", b"avis"):
        return OTHER_SUFFIXES[".avif"]
    if data[128:132] == b"DICM":
        return OTHER_SUFFIXES[".dcm"]
    if data.lstrip()[:5].lower() in (b"<html", b"<!doc"):
        return "a web page, not an image; the download may have failed"
    return None


def fit_image(image: Image.Image, image_size: int, channels: int, rule: PixelRule) -> NDArray[np.uint8]:
    """(image_size, image_size, channels) uint8; of animations and stacks the first picture, without ICC profiles.

    Raises:
        UnusableImageError: deep while ``rule`` has no levels.
    """
    ImageOps.exif_transpose(image, in_place=True)  # else it copies what is upright already
    image = eight_bits(image, rule)
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    squared = square(image, image_size, rule.fit)
    return np.asarray(squared, dtype=np.uint8).reshape(image_size, image_size, channels)


def square(image: Image.Image, size: int, fit: Fit) -> Image.Image:
    """``size`` x ``size`` pixels: the centre of ``image``, or all of it."""
    width, height = image.size
    if (width, height) == (size, size):
        return image
    if fit == "pad":
        longest = max(width, height)
        target = max(1, round(size * width / longest)), max(1, round(size * height / longest))
        whole = image.resize(target, Image.Resampling.BILINEAR, reducing_gap=2.0)
        canvas = Image.new(image.mode, (size, size), GREY if image.mode == "L" else (GREY,) * 3)
        canvas.paste(whole, ((size - target[0]) // 2, (size - target[1]) // 2))
        return canvas
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side) if fit == "crop" else (0, 0, width, height)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)


def eight_bits(image: Image.Image, rule: PixelRule) -> Image.Image:
    """Deep pictures scaled by the rule's levels, transparent ones composed on its background, others as they are."""
    if image.mode in DEEP_MODES:
        if rule.levels is None:
            raise UnusableImageError(
                f"{image.mode} pixels (more than 8 bits) among 8-bit images: their range is not known"
            )
        return Image.fromarray(to_eight_bits(np.asarray(image), rule.levels))
    if not image.has_transparency_data:
        return image
    layered = image.convert("LA" if image.mode in ("1", "L", "LA", "La") else "RGBA")
    *colours, alpha = layered.split()
    opaque = colours[0] if len(colours) == 1 else Image.merge("RGB", colours)
    level = rule.background
    ground = Image.new(opaque.mode, opaque.size, level if len(colours) == 1 else (level,) * 3)
    ground.paste(opaque, mask=alpha)
    return ground


def facts_of(image: Image.Image) -> PictureFacts:
    """Raises UnusableImageError for modes that nothing here makes grey or colour."""
    if image.mode not in GREY_MODES | COLOUR_MODES:
        raise UnusableImageError(f"pixel mode {image.mode} is not known; save it as grey or RGB")
    has_alpha = image.mode not in DEEP_MODES and image.has_transparency_data
    return PictureFacts(*image.size, image.mode, has_alpha, bool(getattr(image, "is_animated", False)))


def picture_facts(data: bytes) -> PictureFacts:
    """From the header alone. Raises UnusableImageError where it is no image, or far too large."""
    with _opened(data) as image:
        return facts_of(image)


def deep_pixels(data: bytes) -> NDArray[np.generic]:
    """(H, W) of a deep picture, its values as they are. Raises as ``picture_facts`` does."""
    with _opened(data) as image:
        return np.asarray(image)


def layered_thumbnail(data: bytes, side: int) -> NDArray[np.uint8]:
    """(h, w, 4) RGBA, at most ``side`` pixels each way. Raises as ``picture_facts`` does."""
    with _opened(data) as image:
        layered = image.convert("RGBA")
        layered.thumbnail((side, side), Image.Resampling.NEAREST)  # no mixing of colours that alpha hides
        return np.asarray(layered)


@contextmanager
def quiet_decoding() -> Iterator[None]:
    """Without Pillow's warnings of odd but harmless metadata (EXIF, ICC), and of large pictures: twice its limit, 179
    megapixels, is the largest that it takes, and more is an error anyway.

    Wrap it around a whole pool: filters are global, so changing them inside threads would race.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
        yield


def read_image(
    source: FileSource, path: str, image_size: int, channels: int, rule: PixelRule
) -> tuple[DecodedImage | str, int]:
    """(image, or why it is unusable; CRC-32 of the file)."""
    try:
        data = source.read(path)
    except READ_ERRORS as error:
        return str(error) or type(error).__name__, 0
    checksum = zlib.crc32(data)
    try:
        return decode_image(data, image_size, channels, rule), checksum
    except UnusableImageError as error:
        return str(error), checksum


def map_chunks(work: Callable[[range], None], count: int, on_progress: Progress | None = None) -> None:
    """Run ``work`` on consecutive ranges of ``count`` items in threads; the first error (by order) is raised."""
    ranges = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    with ThreadPoolExecutor(NUM_WORKERS) as pool:
        futures: Sequence[Future[None]] = [pool.submit(work, chunk) for chunk in ranges]
        try:
            for chunk, future in zip(ranges, futures, strict=True):
                future.result()
                if on_progress is not None:
                    on_progress(chunk.stop, count)
        finally:
            for future in futures:
                future.cancel()
