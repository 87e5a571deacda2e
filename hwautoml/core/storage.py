"""Files that are either whole or as they were, and what a user is told when the disk takes no more."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hwautoml.core.temporary import temporary_file, temporary_folder
from hwautoml.errors import StorageError

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_PLACE = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.EIO,
        errno.EEXIST,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.EXDEV,
        errno.EBUSY,
    }
)

#: What compilers and linkers say of the first; zig's, too.
_NO_ROOM_WORDS = ("No space left on device", "Disk quota exceeded", "File too large", "NoSpaceLeft", "DiskQuota")
_FULL_BYTES = 64 * 1024
_MAKE_ROOM = "make room and go on; finished work is kept"

# Read once: to ask for it is to change it, for all threads.
_UMASK = os.umask(0)
os.umask(_UMASK)


@contextmanager
def replaced_atomically(path: Path, *, survives_power_loss: bool = True) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place when the block succeeds; its folder is made if need be.

    What ends the process leaves one or the other whole; to survive a loss of power too takes milliseconds.
    A link stays, and what it leads to is replaced. Devices and pipes (``/dev/stdout``) get the bytes.

    Raises:
        StorageError: there is no room, or ``path`` cannot be written to.
    """
    with named_storage_errors(path):
        if _is_stream(path):
            with tempfile.TemporaryDirectory() as folder:
                temporary = Path(folder) / f"file{path.suffix}"
                yield temporary
                path.write_bytes(temporary.read_bytes())
            return
        path = Path(os.path.realpath(path)) if path.is_symlink() else path
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_file(path) as temporary:
            yield temporary
            if survives_power_loss:
                _sync(temporary)
            # Temporary files are private; the result should be as readable as any other file.
            temporary.chmod(0o666 & ~_UMASK)
            temporary.replace(path)
            if survives_power_loss:
                _sync(path.parent)  # the name, too


def write_atomically(path: Path, content: bytes | str) -> Path:
    """``path``, which has all of ``content`` (text as UTF-8, line ends as they are) or what it had before.

    Raises:
        StorageError: as `replaced_atomically`.
    """
    with replaced_atomically(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def require_writable(path: Path) -> None:
    """Asked before hours of work whose result is to be written there; makes the folder.

    Raises:
        StorageError: nothing can be written at ``path``.
    """
    with named_storage_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if _is_stream(path):
            return
        path = Path(os.path.realpath(path)) if path.is_symlink() else path
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(prefix=".", dir=path.parent):
            pass


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """A private folder next to ``path``, removed afterwards: what is built in it is moved to ``path`` in one step.

    Raises:
        StorageError: there is no room, or nothing can be written there.
    """
    with named_storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(path) as folder:
            yield folder


def sync_tree(folder: Path, *, deep: bool = True) -> None:
    """What is in it, or only the names, survives a loss of power; its own name once its parent is synced, too."""
    for path in [*(folder.rglob("*") if deep else ()), folder]:
        if not path.is_symlink():
            _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def named_storage_errors(path: Path) -> Iterator[None]:
    """Errors of the file system within the block as StorageError about ``path``; all others as they are."""
    try:
        yield
    except OSError as error:
        found = storage_error(error, path)
        if found is None:
            raise
        raise found from error


def full_disk_error(said: str, *places: Path) -> StorageError | None:
    """When a program that wrote in ``places`` failed for lack of room, by its own words or by what is left there now.

    A linker that maps its output into memory ends without a word when the disk is full. None for other failures.
    """
    told = next((word for word in _NO_ROOM_WORDS if word in said), None)
    full = next((place for place in places if place.is_dir() and _free_bytes(place) < _FULL_BYTES), None)
    if told is None and full is None:
        return None
    where = full or next(iter(places), Path(tempfile.gettempdir()))
    return StorageError(f"no room to write in {where}: {told or 'the disk is full'}", fix=_MAKE_ROOM, is_full=True)


def _free_bytes(place: Path) -> int:
    status = os.statvfs(place)
    return status.f_bavail * status.f_frsize


def storage_error(error: OSError, path: Path | None = None) -> StorageError | None:
    """What a user is told of an error of the file system, met while ``path`` was written; None for other errors."""
    is_about_path = path is not None and _is_about(error, path)
    place = path if is_about_path else error.filename or "a file"
    if error.errno in _NO_ROOM:
        return StorageError(f"no room to write {place}: {error.strerror}", fix=_MAKE_ROOM, is_full=True)
    if error.errno in _NO_PLACE or (is_about_path and error.errno == errno.ENOENT):
        within = "" if error.filename in (None, str(place)) else f" ({error.filename})"
        return StorageError(
            f"cannot {'write' if is_about_path else 'read or write'} {place}: {error.strerror}{within}",
            fix="name another place, or change what is there",
        )
    return None


def _is_stream(path: Path) -> bool:
    """Whether it is no file that could be replaced, or the system's name of one that is open."""
    is_systems = path.parts[:2] in (("/", "dev"), ("/", "proc")) and path.parts[2:3] != ("shm",)
    return path.exists() and not path.is_dir() and (is_systems or not path.is_file())


def _is_about(error: OSError, path: Path) -> bool:
    """Whether it names ``path``, what it lies in, or a temporary file beside it; errors of writing name nothing."""
    if error.filename is None:
        return True
    found = Path(os.fsdecode(error.filename)).absolute()
    places = [Path(os.path.abspath(path)), Path(os.path.realpath(path))]  # noqa: PTH100 (".." goes, links stay)
    return any(
        found in (place, *place.parents) or (found.parent == place.parent and found.name.startswith("."))
        for place in places
    )
