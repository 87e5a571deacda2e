"""Image files to uint8 arrays of one size, by a pool of threads (Pillow releases the GIL while it decodes)."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from hwautoml.datasets.safety import READ_ERRORS
from hwautoml.datasets.sources import FileSource
from hwautoml.errors import DatasetError

Progress = Callable[[int, int], None]

# Naming them keeps Pillow from trying exotic, less hardened decoders on untrusted files.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
GREY_MODES = frozenset({"1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N"})
COLOUR_MODES = frozenset({"P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV", "LAB"})
NUM_WORKERS = min(8, os.cpu_count() or 1)
CHUNK = 256
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
class DecodedImage:
    """``pixels`` (size, size, channels) uint8; ``native_channels`` 1 or 3 is what the file holds."""

    pixels: NDArray[np.uint8]
    native_channels: int


def decode_image(data: bytes, image_size: int, channels: int) -> DecodedImage:
    """Decode, turn upright (EXIF), convert, crop the centre square, resize with Pillow's antialiased BILINEAR.

    ``hwautoml/bundles/runner/run.py`` repeats these steps; a test compares the two.

    Raises:
        UnusableImageError: not an image, truncated, or of a pixel mode with no 8-bit meaning.
        DatasetError: a decompression bomb.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            native_channels = channels_of_mode(image.mode)
            image.draft(None, (2 * image_size, 2 * image_size))
            return DecodedImage(fit_image(image, image_size, channels), native_channels)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DatasetError(
            f"decompression bomb, or far larger than a photo: {error}", fix="remove the image, or store it smaller"
        ) from error
    except UnidentifiedImageError as error:
        raise UnusableImageError("not an image, or an unknown format") from error
    except DECODING_ERRORS as error:
        raise UnusableImageError(str(error) or type(error).__name__) from error


def fit_image(image: Image.Image, image_size: int, channels: int) -> NDArray[np.uint8]:
    """(image_size, image_size, channels) uint8; alpha is dropped, animations give their first frame."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    width, height = image.size
    if (width, height) != (image_size, image_size):
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        box = (left, top, left + side, top + side)
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    return np.asarray(image, dtype=np.uint8).reshape(image_size, image_size, channels)


def channels_of_mode(mode: str) -> int:
    """1 for grey, 3 for colour.

    Raises:
        UnusableImageError: 32-bit modes, whose range is not known.
    """
    if mode in GREY_MODES:
        return 1
    if mode in COLOUR_MODES:
        return 3
    raise UnusableImageError(f"pixel mode {mode} has no known range; save it as an 8-bit image")


def image_header(data: bytes) -> tuple[tuple[int, int], int]:
    """((width, height), native channels) without decoding pixels.

    Raises:
        UnusableImageError: not an image.
        DatasetError: a decompression bomb.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.size, channels_of_mode(image.mode)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DatasetError(
            f"decompression bomb, or far larger than a photo: {error}", fix="remove the image, or store it smaller"
        ) from error
    except DECODING_ERRORS as error:
        raise UnusableImageError(str(error) or type(error).__name__) from error


@contextmanager
def bombs_are_errors() -> Iterator[None]:
    """Pillow only warns about images between one and two times its limit; here both are errors.

    Wrap it around a whole pool: filters are global, so changing them inside threads would race.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        # Pillow warns about odd but harmless metadata (EXIF, ICC); the pixels are what counts here.
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
        yield


def read_image(source: FileSource, path: str, image_size: int, channels: int) -> tuple[DecodedImage | str, int]:
    """(image, or why it is unusable; CRC-32 of the file).

    Raises:
        DatasetError: a decompression bomb, named.
    """
    try:
        data = source.read(path)
    except READ_ERRORS as error:
        return str(error) or type(error).__name__, 0
    checksum = zlib.crc32(data)
    try:
        return decode_image(data, image_size, channels), checksum
    except UnusableImageError as error:
        return str(error), checksum
    except DatasetError as error:
        raise DatasetError(f"{source.name_of(path)}: {error.message}", fix=error.fix) from error


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
