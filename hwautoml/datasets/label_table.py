"""Tables that say which file shows what: .csv, .tsv and .jsonl, as spreadsheets, scripts and hubs write them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hwautoml.core.shown import shown
from hwautoml.datasets.naming import first_of
from hwautoml.errors import DatasetError

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".jsonl"})
PATH_NAMES = (
    *("file_name", "filename", "file", "filepath", "file_path", "path", "image_path", "img_path", "image_name"),
    *("image", "img", "picture", "image_id", "id", "name"),
)
LABEL_NAMES = ("label", "labels", "class", "class_name", "label_name", "category", "target", "species", "y")
SPLIT_COLUMNS = ("split", "set", "subset", "partition")
CAPTION_NAMES = frozenset({"text", "caption", "captions", "description", "prompt"})
BOX_NAMES = frozenset({"bbox", "boxes", "xmin", "ymin", "x_min", "y_min", "objects", "bounding_box"})
DELIMITERS = ",;\t|"


@dataclass(frozen=True)
class Columns:
    """Names of columns that were asked for; None: found by their usual names, ``group`` never."""

    path: str | None = None
    label: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class LabelRow:
    """``split`` and ``group`` as in the table; empty where it has none. ``path`` is relative to ``folder``."""

    path: str
    label: str
    split: str = ""
    group: str = ""
    folder: str = ""


@dataclass(frozen=True)
class Table:
    """``cells[i]`` has a text for each of ``columns``; ``name`` is for messages, ``path`` the place in its source."""

    name: str
    columns: tuple[str, ...]
    cells: Sequence[Sequence[str]] = field(repr=False)
    path: str = ""


def parse_table(data: bytes, name: str) -> Table:
    """``name`` ends in one of TABLE_SUFFIXES, and is for messages.

    Raises:
        DatasetError: not UTF-8, no rows, rows of unequal length, or lines that are no JSON objects.
    """
    text = _decoded(data, name)
    table = _from_json_lines(text, name) if name.lower().endswith(".jsonl") else _from_delimited(text, name)
    if not table.cells:
        raise DatasetError(f"{name} has no rows", fix="one row per image: its path and its label")
    return table


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        encoding = _probable_encoding(data)
        raise DatasetError(
            f"{name} is not UTF-8: byte 0x{data[error.start]:02x} in line {line}; it looks like {encoding}",
            fix=f"iconv -f {encoding} -t UTF-8 {name} > labels_utf8{name[name.rfind('.') :]}",
        ) from error


def _probable_encoding(data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "UTF-16"
    try:
        data.decode("cp1252")
    except UnicodeDecodeError:
        return "ISO-8859-1"  # in which every byte is something
    return "WINDOWS-1252"


def _from_delimited(text: str, name: str) -> Table:
    first = text.lstrip("\r\n").splitlines()[:1]
    if not first:
        return Table(name, (), ())
    delimiter = max(DELIMITERS, key=lambda sign: (len(next(csv.reader(first, delimiter=sign))), sign == "\t"))
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if any(row)]
    except csv.Error as error:
        raise DatasetError(f"cannot read {name}: {error}", fix="save it as CSV anew") from error
    has_header = not any(_is_image_name(cell) for cell in rows[0])
    columns = tuple(cell.strip() for cell in rows[0]) if has_header else ("path", "label", *_numbered(len(rows[0])))
    columns = columns[: len(rows[0])]
    for number, row in enumerate(rows):
        if len(row) != len(columns):
            raise DatasetError(
                f"row {number + 1} of {name} has {len(row)} cells, the first one {len(columns)}: {shown(str(row))}",
                fix="put texts that hold the separator into quotes",
            )
    return Table(name, columns, [[cell.strip() for cell in row] for row in rows[has_header:]])


def _numbered(count: int) -> list[str]:
    return [f"column {number}" for number in range(3, count + 1)]


def _is_image_name(cell: str) -> bool:
    return cell.strip().lower().endswith((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"))


def _from_json_lines(text: str, name: str) -> Table:
    entries: list[Mapping[str, object]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise DatasetError(f"line {number} of {name} is no JSON: {error}", fix="one object per line") from error
        if not isinstance(entry, dict):
            raise DatasetError(f"line {number} of {name} is no JSON object: {line[:60]}", fix="one object per line")
        entries.append(entry)
    columns = tuple(dict.fromkeys(key for entry in entries for key in entry))
    cells = [["" if entry.get(c) is None else str(entry[c]) for c in columns] for entry in entries]
    return Table(name, columns, cells)


def holds_boxes(table: Table) -> bool:
    """Whether it is of object detection: one row per box, or a column of boxes."""
    return bool(BOX_NAMES & {column.lower() for column in table.columns})


def label_rows(table: Table, columns: Columns) -> list[LabelRow]:
    """Rows without a label are left out.

    Raises:
        DatasetError: a column that was asked for is missing, or paths or labels are in none of the usual ones.
    """
    path = _column(table, columns.path, PATH_NAMES, "path", "--path-column")
    label = _column(table, columns.label, LABEL_NAMES, "label", "--label-column", apart_from=path)
    split = next((i for i, c in enumerate(table.columns) if c.lower() in SPLIT_COLUMNS and i != label), None)
    group = None if columns.group is None else _column(table, columns.group, (), "group", "--group")
    return [
        LabelRow(
            row[path], row[label], "" if split is None else row[split].lower(), "" if group is None else row[group]
        )
        for row in table.cells
        if row[label] and row[path]
    ]


def has_labels(table: Table, columns: Columns) -> bool:
    """Whether ``label_rows`` would find both columns."""
    try:
        label_rows(Table(table.name, table.columns, ()), columns)
    except DatasetError:
        return False
    return True


def _column(
    table: Table, asked: str | None, usual: Sequence[str], what: str, option: str, apart_from: int | None = None
) -> int:
    lower = [column.lower() for column in table.columns]
    if asked is not None:
        if asked not in table.columns:
            raise DatasetError(
                f"{table.name} has no column {asked!r}; it has {first_of(table.columns, 12)}",
                fix=f"name one in {option}",
            )
        return table.columns.index(asked)
    found = [lower.index(name) for name in usual if name in lower]
    if not found and apart_from is not None and len(lower) == 2 and lower[1 - apart_from] not in CAPTION_NAMES:
        found = [1 - apart_from]  # of two columns, the one that is not the path
    if not found:
        raise DatasetError(
            f"{table.name} has no column of {what}s by a name that is known; it has {first_of(table.columns, 12)}",
            fix=f"name it: {option} COLUMN (known are {', '.join(usual[:6])}, ...)",
        )
    return found[0]
