"""Picture files with something wrong in them."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image


def png_with_torn_exif() -> bytes:
    """A sound picture whose EXIF, which says how it is turned, ends within its header."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    data, content = buffer.getvalue(), b"eXIfII*\0"
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    at = data.index(b"IDAT") - 4
    return data[:at] + chunk + data[at:]
