"""From label tables, or a path pattern, to classes and splits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from hwautoml.core.finding import Finding
from hwautoml.core.shown import shown
from hwautoml.datasets.label_table import LabelRow
from hwautoml.datasets.layout import SPLIT_NAMES, LabelledFile, Layout
from hwautoml.datasets.naming import first_of
from hwautoml.datasets.path_pattern import PathPattern
from hwautoml.datasets.sources import FileSource, ImageFile, Listing
from hwautoml.errors import DatasetError

MAX_MISSING_FRACTION = 0.1


def layout_of_rows(rows: Sequence[LabelRow], table: str, source: FileSource, listing: Listing) -> Layout:
    """``table`` names in messages where the rows are from; paths are relative to the row's folder or to the source, or
    bare names.

    Raises:
        DatasetError: more than a tenth of the paths do not exist, an image has two labels, all have the same one,
            or an unknown split.
    """
    find = _finder(listing, source)
    found = [(find(row.path, row.folder), row) for row in rows]
    missing = [row.path for file, row in found if file is None]
    if len(missing) > MAX_MISSING_FRACTION * len(rows):
        raise DatasetError(
            f"{len(missing):,} of the {len(rows):,} paths in {table} do not exist, such as: {first_of(missing)}",
            fix="write them relative to the table's folder",
        )
    labels: dict[str, set[str]] = {}
    for file, row in found:
        if file is not None:
            labels.setdefault(file.path, set()).add(row.label)
    torn = [f"{path} ({', '.join(sorted(names))})" for path, names in labels.items() if len(names) > 1]
    if torn:
        raise DatasetError(
            f"{len(torn):,} images have more than one label in {table}: {first_of(torn)}",
            fix="keep one row per image; several labels at once are not learnt here",
        )
    kept = {file.path: (file, row) for file, row in found if file is not None}
    findings: tuple[Finding, ...] = ()
    if missing:
        text = f"{len(missing):,} of the {len(rows):,} paths in {table} do not exist: {first_of(missing)}"
        findings = (Finding("warn", "missing-files", text, "add the files, or remove the rows", len(missing)),)
    return _layout(kept.values(), table, listing, findings)


def layout_of_pattern(pattern: PathPattern, source: FileSource, listing: Listing) -> Layout:
    """The label, and the split and group where it names them, of each image that matches.

    Raises:
        DatasetError: nothing matches, or all labels are alike.
    """
    matches = [(file, pattern.match(file.path)) for file in listing.files]
    rows = [
        (file, LabelRow(file.path, found["label"], found.get("split", "").lower(), found.get("group", "")))
        for file, found in matches
        if found is not None
    ]
    if not rows:
        raise DatasetError(
            f"no image of {source.origin} matches the pattern {pattern.text!r}; there are "
            f"{first_of([file.path for file in listing.files], 3) or 'none'}",
            fix="the whole path below the folder has to match; ** stands for any folders",
        )
    return _layout(rows, f"the pattern {pattern.text!r}", listing, ())


def _layout(
    rows: Iterable[tuple[ImageFile, LabelRow]], table: str, listing: Listing, findings: tuple[Finding, ...]
) -> Layout:
    rows = list(rows)
    classes = tuple(sorted({row.label for _, row in rows}, key=_in_order))
    for name in classes:
        if not name.isprintable():
            raise DatasetError(f"the label {shown(name)!r} in {table} is not printable", fix="rename it")
    if len(classes) < 2:
        only = repr(classes[0]) if classes else "none"
        raise DatasetError(
            f"{table} has one class only: {only} in all {len(rows):,} rows with a label",
            fix="add images of another class, or name the column of labels: --label-column COLUMN",
        )
    number = {name: index for index, name in enumerate(classes)}
    files = [
        LabelledFile(file, _split_of(row.split, table), number[row.label], row.group)
        for file, row in sorted(rows, key=lambda pair: pair[0].path)
    ]
    files.sort(key=lambda entry: (("train", "val", "test", "").index(entry.split), entry.label))
    taken = {entry.file.path for entry in files}
    loose = tuple(file.path for file in listing.files if file.path not in taken)
    return Layout(classes, tuple(files), frozenset(f.split for f in files) - {""}, loose, findings)


def _in_order(name: str) -> tuple[int, int, str]:
    """Whole numbers by their value, before texts."""
    return (0, int(name), name) if name.isdecimal() and name.isascii() else (1, 0, name)


def _split_of(name: str, table: str) -> str:
    if name and name not in SPLIT_NAMES:
        raise DatasetError(
            f"{table} names a split {shown(name)!r}; known: {', '.join(SPLIT_NAMES)}", fix="rename it, or the column"
        )
    return SPLIT_NAMES[name] if name else ""


def _finder(listing: Listing, source: FileSource) -> Callable[[str, str], ImageFile | None]:
    """By the path from the table's folder, from the source, or by a bare name (with or without suffix) that is
    there once."""
    by_path = {file.path: file for file in listing.files}
    by_name: dict[str, list[ImageFile]] = {}
    for file in listing.files:
        name = file.path.rpartition("/")[2]
        for key in {name, name.rpartition(".")[0]}:
            by_name.setdefault(key, []).append(file)

    def find(path: str, folder: str) -> ImageFile | None:
        for candidate in (path, path.replace("\\", "/")):
            plain = candidate.removeprefix("./")
            inside = f"{folder}/{plain}" if folder else plain
            file = by_path.get(inside) or by_path.get(plain) or source.find(inside)
            if file is None and "/" not in plain and len(by_name.get(plain, ())) == 1:
                file = by_name[plain][0]
            if file is not None:
                return file
        return None

    return find
