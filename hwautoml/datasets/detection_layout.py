"""Layouts of object detection: recognised, so that they are called by their name."""

from __future__ import annotations

from collections.abc import Iterable

from hwautoml.datasets.safety import READ_ERRORS
from hwautoml.datasets.sources import FileSource, Listing
from hwautoml.errors import DatasetError

FIX = (
    "crop each box into a folder of its class, or label whole pictures: one folder per class, or a labels.csv with "
    "the columns path and label"
)
NUM_BYTES_READ = 4096


def refuse_detection(source: FileSource, listing: Listing) -> None:
    """Raises DatasetError for the layouts of YOLO, Pascal VOC and COCO, naming the file that tells."""
    stems = {_stem(file.path): file.path for file in listing.files}
    for path in listing.documents:
        name, folder = path.rpartition("/")[2].lower(), path.rpartition("/")[0].lower()
        if name.endswith(".json") and (name.startswith("instances_") or "coco" in name):
            _refuse("COCO", source.name_of(path))
    for kind, suffix, folders, tells in (
        ("Pascal VOC", ".xml", ("annotations",), _is_voc),
        ("YOLO", ".txt", ("labels",), _is_yolo),
    ):
        for path in listing.documents:
            folder = path.lower().rpartition("/")[0]
            beside_an_image = _stem(path) in stems
            in_their_folder = any(part in folders for part in folder.split("/"))
            if path.lower().endswith(suffix) and (beside_an_image or in_their_folder):
                if tells(source, path):
                    _refuse(kind, source.name_of(path))
                break  # one look into one file: they are all alike


def _stem(path: str) -> str:
    return path[: path.rfind(".")]


def _refuse(kind: str, name: str) -> None:
    raise DatasetError(
        f"{name}: this is a layout of object detection ({kind}: boxes in pictures); hwautoml classifies whole pictures",
        fix=FIX,
    )


def _beginning(source: FileSource, path: str) -> str:
    try:
        return source.read(path)[:NUM_BYTES_READ].decode("utf-8", "replace")
    except READ_ERRORS:
        return ""


def _is_voc(source: FileSource, path: str) -> bool:
    text = _beginning(source, path)
    return "<annotation" in text and ("<bndbox" in text or "<object" in text)


def _is_yolo(source: FileSource, path: str) -> bool:
    """A class number and four or more coordinates between 0 and 1 in every line."""
    lines = _beginning(source, path).splitlines()[:5]
    return bool(lines) and all(_is_box(line.split()) for line in lines)


def _is_box(words: list[str]) -> bool:
    return len(words) >= 5 and words[0].isdecimal() and all(0 <= value <= 1 for value in _numbers(words[1:]))


def _numbers(words: Iterable[str]) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError:
        return [-1.0]
