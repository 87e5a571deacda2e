"""What is asked of files before they are read: that they are files, and of a size that memory can hold."""

from __future__ import annotations

import lzma
import os
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hwautoml.errors import DatasetError

MAX_FILE_BYTES = 512 * 1024**2
#: Whatever a missing, unreadable or damaged file, zip or zip member raises while it is opened or read: a damaged
#: directory misleads Python's reader to wrong places, versions, passwords and numbers.
READ_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    RuntimeError,  # encrypted, and NotImplementedError: an unknown method or version
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
#: And what numpy raises for a damaged header of an array, or one that claims more than there is.
HEADER_ERRORS = (SyntaxError, TypeError, AttributeError, KeyError, RecursionError, MemoryError, tokenize.TokenError)
_SHARE_OF_MEMORY = 0.5
_MAX_HEADER_BYTES = 10_000
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # a container's, where there is one


def read_regular(path: Path, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """The content of a file: of no FIFO, which would keep the reader waiting, and of no device, which has no end.

    Raises:
        OSError: it is none, cannot be read, or is larger than ``max_bytes``.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"is no regular file but {_kind(status.st_mode)}")
        if status.st_size > max_bytes:
            raise OSError(f"has {status.st_size:,} bytes, more than the {max_bytes:,} allowed for one image")
        return file.read(max_bytes)


def _kind(mode: int) -> str:
    kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket", stat.S_ISCHR: "a device"}
    return next((name for is_kind, name in kinds.items() if is_kind(mode)), "a device")


def read_arrays(path: Path, names: Sequence[str], fix: str) -> dict[str, NDArray[Any]]:
    """Arrays of an .npz, whose headers are compared with its members and with this machine's memory first.

    Raises:
        DatasetError: it is no .npz, damaged, encrypted, lacks one of ``names``, or does not fit into memory.
    """
    try:
        if not path.is_file():
            raise OSError("is no regular file")
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy"): archive.getinfo(name) for name in archive.namelist()}
            missing = [name for name in names if name not in members]
            if missing:
                raise DatasetError(f"{path} lacks {' and '.join(missing)}; it has {list(members)[:10]}", fix=fix)
            _require_memory(path, sum(members[name].file_size for name in names))
            return {name: _read_array(archive, members[name]) for name in names}
    except READ_ERRORS as error:
        raise DatasetError(f"cannot read {path} as an .npz: {str(error) or type(error).__name__}", fix=fix) from error


def require_printable(path: Path, labels: NDArray[Any]) -> None:
    """Names among ``labels`` (of any shape) are text that manifests, reports and models can hold.

    Raises:
        DatasetError: one is not.
    """
    if labels.dtype.kind != "U":
        return
    try:
        names = sorted({str(label) for label in labels.flat})
    except (ValueError, SystemError) as error:  # numbers that are no characters
        raise DatasetError(f"y in {path} holds a name that is no text: {error}", fix="name the classes anew") from error
    for name in names:
        if not name.isprintable():
            raise DatasetError(f"y in {path} holds the class {name!r}, which is not printable", fix="rename the class")


def _require_memory(path: Path, num_bytes: int) -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if _CGROUP_LIMIT.is_file() and (limit := _CGROUP_LIMIT.read_text(encoding="utf-8").strip()).isdecimal():
        memory = min(memory, int(limit))
    if num_bytes > _SHARE_OF_MEMORY * memory:
        raise DatasetError(
            f"{path} unpacks to {num_bytes / 1e9:,.1f} GB, and this machine has {memory / 1e9:,.1f} GB of memory",
            fix="store the images as files, in a folder or zip: they are decoded batch by batch",
        )


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """What numpy's reader would allocate before it looks at what is there."""
    with archive.open(member) as file:
        shape, dtype = _header(file)
        num_bytes = dtype.itemsize
        for extent in shape:
            num_bytes *= extent
        num_left = member.file_size - file.tell()
        if num_bytes != num_left and not dtype.hasobject:  # which numpy refuses to read
            raise ValueError(f"{member.filename} claims {dtype} {shape}, {num_bytes:,} bytes, and has {num_left:,}")
    with archive.open(member) as file:
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False, max_header_size=_MAX_HEADER_BYTES)
        file.read(1)  # compares the checksum of the whole
    return array


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, _, dtype = read(file, max_header_size=_MAX_HEADER_BYTES)
    except (
        SyntaxError,
        TypeError,
        AttributeError,
        KeyError,
        RecursionError,
        MemoryError,
        tokenize.TokenError,
    ) as error:
        raise ValueError(f"damaged header: {error}") from error
    if any(extent < 0 for extent in shape):
        raise ValueError(f"negative shape {shape}")
    return shape, dtype
