"""Where image files lie: a folder, or a zip that is read without extracting it."""

from __future__ import annotations

import os
import re
import zipfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from hwautoml.core.shown import shown
from hwautoml.datasets.safety import MAX_FILE_BYTES, READ_ERRORS, read_regular
from hwautoml.errors import DatasetError

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"}
)
_HEIC = "HEIC is not read; convert it to JPEG, with heif-convert of libheif or Pillow with pillow-heif"
_DICOM = "DICOM is not read; save its pixels as 16-bit PNG, with dcmj2pnm of DCMTK or pydicom"
_RAW = "a camera's raw file is not read; develop it to JPEG or 16-bit TIFF, with darktable-cli or rawpy"
#: Pictures that are not read here, and what reads them: counted and named, not passed over in silence.
OTHER_SUFFIXES = {
    ".heic": _HEIC,
    ".heif": _HEIC,
    ".dcm": _DICOM,
    ".dicom": _DICOM,
    ".avif": "AVIF is not read; convert it to PNG, with avifdec of libavif or Pillow 11.3 or later",
    ".jxl": "JPEG XL is not read; convert it to PNG, with djxl of libjxl",
    ".jp2": "JPEG 2000 is not read; convert it to PNG, with opj_decompress of OpenJPEG or Pillow",
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw"), _RAW),
}
#: What may say which picture shows what.
DOCUMENT_SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".json", ".txt", ".xml", ".parquet"})
# wrapper / split / class / folders below it / file: anything deeper is not a dataset, and walking it could take for
# ever.
MAX_DEPTH = 8


@dataclass(frozen=True)
class ImageFile:
    """``path`` is relative to the source, with ``/``; ``stamp`` changes whenever the content may have."""

    path: str
    size_bytes: int
    stamp: int


@dataclass(frozen=True)
class Listing:
    """Every image file and every folder (also empty ones) of a source, both sorted by path.

    ``others``: paths of pictures in formats that are not read; ``documents``: of DOCUMENT_SUFFIXES.
    """

    files: tuple[ImageFile, ...]
    folders: tuple[str, ...]
    others: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()


class FileSource(ABC):
    """Lists and reads image files; ``origin`` names the source in messages. ``read`` may be called by many threads."""

    origin: str

    @abstractmethod
    def listing(self) -> Listing: ...

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Raises one of READ_ERRORS when the file cannot be read."""

    def name_of(self, path: str) -> str:
        """How a message names the file ``path``."""
        return shown(f"{self.origin}/{path}")

    def find(self, path: str) -> ImageFile | None:
        """A file that the listing lacks, for its name or for where it lies; None where there is none."""
        return None


class FolderSource(FileSource):
    """A folder on disk. Symbolic links are followed, out of the folder, too; a folder that was seen is not entered
    again, so that links that lead in circles end."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.origin = str(root)

    def listing(self) -> Listing:
        """Raises DatasetError when a folder cannot be read."""
        files: list[ImageFile] = []
        folders: list[str] = []
        others: list[str] = []
        documents: list[str] = []
        pending, entered = [""], set()
        while pending:
            folder = pending.pop()
            try:
                status = (self.root / folder).stat()
                if (status.st_dev, status.st_ino) in entered:
                    continue
                entered.add((status.st_dev, status.st_ino))
                with os.scandir(self.root / folder) as entries:
                    for entry in entries:
                        path = f"{folder}/{entry.name}" if folder else entry.name
                        if is_hidden(entry.name):
                            continue
                        if entry.is_dir():
                            folders.append(path)
                            if path.count("/") + 1 < MAX_DEPTH:
                                pending.append(path)
                        elif _suffix(entry.name) in IMAGE_SUFFIXES:
                            files.append(_image_file(entry, path))
                        elif _suffix(entry.name) in OTHER_SUFFIXES:
                            others.append(path)
                        elif _suffix(entry.name) in DOCUMENT_SUFFIXES:
                            documents.append(path)
            except OSError as error:
                raise DatasetError(
                    f"cannot read folder {self.root / folder}: {error.strerror}", fix="check its permissions"
                ) from error
        files.sort(key=lambda file: file.path)
        return Listing(tuple(files), *(tuple(sorted(paths)) for paths in (folders, others, documents)))

    def read(self, path: str) -> bytes:
        return read_regular(self.root / path)

    def name_of(self, path: str) -> str:
        return shown(str(self.root / path))  # which is the path itself where that is absolute

    def find(self, path: str) -> ImageFile | None:
        file = self.root / path
        if not file.is_file():
            return None
        status = file.stat()
        return ImageFile(path, status.st_size, status.st_mtime_ns)


class ZipSource(FileSource):
    """A zip archive, read in place.

    Raises:
        DatasetError: the archive is damaged or encrypted, or a member lies outside of it.
    """

    def __init__(self, path: Path) -> None:
        self.origin = str(path)
        try:
            if not path.is_file():
                raise OSError("it is no regular file")
            self._archive = zipfile.ZipFile(path)
        except READ_ERRORS as error:
            raise DatasetError(
                f"cannot open {path} as a zip: {error}", fix="the download may be incomplete; check with: unzip -t FILE"
            ) from error
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._documents: dict[str, zipfile.ZipInfo] = {}

    def listing(self) -> Listing:
        folders: set[str] = set()
        others: list[str] = []
        for member in self._archive.infolist():
            name = member.filename.replace("\\", "/")
            self._check_safe(member, name)
            path = name.strip("/")
            parts = path.split("/")
            if any(is_hidden(part) for part in parts):
                continue
            folder = path if name.endswith("/") else path.rpartition("/")[0]
            while folder and folder not in folders:
                folders.add(folder)
                folder = folder.rpartition("/")[0]
            if not name.endswith("/") and _suffix(parts[-1]) in IMAGE_SUFFIXES:
                self._check_readable(member)
                self._members[path] = member
            elif not name.endswith("/") and _suffix(parts[-1]) in OTHER_SUFFIXES:
                others.append(path)
            elif not name.endswith("/") and _suffix(parts[-1]) in DOCUMENT_SUFFIXES:
                self._check_readable(member)
                self._documents[path] = member
        files = [ImageFile(path, m.file_size, m.CRC) for path, m in sorted(self._members.items())]
        return Listing(tuple(files), *(tuple(sorted(paths)) for paths in (folders, others, self._documents)))

    def read(self, path: str) -> bytes:
        return self._archive.read(self._members.get(path) or self._documents[path])

    def _check_safe(self, member: zipfile.ZipInfo, name: str) -> None:
        if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in name.split("/"):
            raise DatasetError(
                f"{self.origin}: member {member.filename!r} points outside the archive",
                fix="re-create the zip from inside the image folder, with relative paths only",
            )

    def _check_readable(self, member: zipfile.ZipInfo) -> None:
        if member.flag_bits & 0x1:
            raise DatasetError(f"{self.origin}: member {member.filename!r} is encrypted", fix="store it unencrypted")
        if member.file_size > MAX_FILE_BYTES:
            raise DatasetError(
                f"{self.origin}: member {member.filename!r} unpacks to {member.file_size:,} bytes, "
                f"more than the {MAX_FILE_BYTES:,} allowed for one image",
                fix="remove it, or store a smaller picture",
            )


def _image_file(entry: os.DirEntry[str], path: str) -> ImageFile:
    try:
        status = entry.stat()
    except OSError:  # a link that leads nowhere: reading it will fail, and be counted and named there
        return ImageFile(path, 0, 0)
    return ImageFile(path, status.st_size, status.st_mtime_ns)


def is_hidden(name: str) -> bool:
    """Dot files, and what macOS and Windows leave behind."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def _suffix(name: str) -> str:
    return name[max(name.rfind("."), 0) :].lower()  # for every member of large archives: no Path


ACCEPTED = (
    "a folder with one sub-folder of images per class, a folder with images and a labels.csv (path, label), "
    "a .zip of one of these, the .csv, .tsv or .jsonl itself, an .npz (x, y), or the word digits"
)


def open_source(path: Path) -> FileSource:
    """A folder, or a file that is a zip by its name.

    Raises:
        DatasetError: no such path, or neither of the two.
    """
    if path.is_dir():
        return FolderSource(path)
    if path.suffix.lower() == ".zip":
        return ZipSource(path)
    raise DatasetError(f"{shown(str(path))} is no source of labelled images that is known", fix=f"pass {ACCEPTED}")
