"""Which of the known layouts a source has: a label table, a path pattern, or folders named after classes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hwautoml.core.finding import Finding
from hwautoml.datasets.detection_layout import refuse_detection
from hwautoml.datasets.label_table import (
    TABLE_SUFFIXES,
    Columns,
    LabelRow,
    Table,
    has_labels,
    holds_boxes,
    label_rows,
    parse_table,
)
from hwautoml.datasets.layout import SPLIT_NAMES, Layout, find_layout
from hwautoml.datasets.naming import first_of
from hwautoml.datasets.path_pattern import PathPattern
from hwautoml.datasets.safety import READ_ERRORS
from hwautoml.datasets.sources import ACCEPTED, OTHER_SUFFIXES, FileSource, Listing
from hwautoml.datasets.table_layout import layout_of_pattern, layout_of_rows
from hwautoml.errors import DatasetError


@dataclass(frozen=True)
class LayoutRequest:
    """What was said of the layout; nothing of it has to be. ``table``: path in the source of the one to read.

    ``label_pattern`` finds labels in paths, ``group_pattern`` groups; a column of groups is one of ``columns``.
    """

    table: str | None = None
    columns: Columns = field(default_factory=Columns)
    label_pattern: PathPattern | None = None
    group_pattern: PathPattern | None = None


def choose_layout(source: FileSource, listing: Listing, request: LayoutRequest) -> Layout:
    """Raises DatasetError where the source has no layout that is known, or two that contradict each other."""
    return _grouped(_ungrouped(source, listing, request), request.group_pattern)


def _ungrouped(source: FileSource, listing: Listing, request: LayoutRequest) -> Layout:
    if request.label_pattern is not None:
        return layout_of_pattern(request.label_pattern, source, listing)
    if request.table is not None:
        return _layout_of_tables(source, listing, [_parsed(source, request.table)], request.columns)
    refuse_detection(source, listing)
    tables = [_parsed(source, path) for path in listing.documents if _may_label(path)]
    labelling = [table for table in tables if has_labels(table, request.columns)]
    if not labelling and request.columns != Columns():
        return _layout_of_tables(source, listing, tables, request.columns)
    try:
        folders = find_layout(listing, source.origin)
    except DatasetError as error:
        if labelling:
            return _layout_of_tables(source, listing, labelling, request.columns)
        raise _with_tables(error, tables, listing) from error
    if not labelling:
        return replace(folders, findings=(*folders.findings, *_ignored(tables)))
    return _agreed(folders, _layout_of_tables(source, listing, labelling, request.columns), labelling)


def _may_label(path: str) -> bool:
    """At the top, in a wrapping folder or in that of a split: not those that lie with the images of a class."""
    *folders, name = path.split("/")
    suffix = name[name.rfind(".") :].lower()
    return suffix in TABLE_SUFFIXES and (
        len(folders) <= 1 or (len(folders) == 2 and folders[-1].lower() in SPLIT_NAMES)
    )


def _parsed(source: FileSource, path: str) -> Table:
    try:
        data = source.read(path)
    except READ_ERRORS as error:
        raise DatasetError(f"cannot read {source.name_of(path)}: {error}", fix="check the file") from error
    return replace(parse_table(data, source.name_of(path)), path=path)


def _layout_of_tables(source: FileSource, listing: Listing, tables: list[Table], columns: Columns) -> Layout:
    """Rows of all tables together; the folder, or the name, of a table that is a split's is the split of its rows."""
    rows: list[LabelRow] = []
    for table in tables:
        if holds_boxes(table):
            raise DatasetError(
                f"{table.name} has boxes ({first_of(table.columns, 8)}): object detection, and hwautoml classifies "
                "whole pictures",
                fix="crop each box into a folder of its class",
            )
        folder, _, name = table.path.rpartition("/")
        given = {folder.rpartition("/")[2].lower(), name[: name.rfind(".")].lower()} & set(SPLIT_NAMES)
        split = SPLIT_NAMES[given.pop()] if given else ""
        rows += [replace(row, folder=folder, split=row.split or split) for row in label_rows(table, columns)]
    return layout_of_rows(rows, " and ".join(table.name for table in tables), source, listing)


def _agreed(folders: Layout, table: Layout, tables: list[Table]) -> Layout:
    """Class folders that a table confirms; a table whose labels are none of the folders' names has the word.

    Raises:
        DatasetError: they contradict each other.
    """
    name = " and ".join(t.name for t in tables)
    if not set(folders.classes) & set(table.classes):
        text = f"labels are those of {name}, not the folders' names ({first_of(folders.classes)})"
        return replace(table, findings=(*table.findings, Finding("note", "labels-from-table", text)))
    by_folder = {entry.file.path: folders.classes[entry.label] for entry in folders.files}
    torn = [
        f"{entry.file.path} ({by_folder[entry.file.path]} by its folder, {table.classes[entry.label]} by the table)"
        for entry in table.files
        if by_folder.get(entry.file.path, table.classes[entry.label]) != table.classes[entry.label]
    ]
    if torn:
        raise DatasetError(
            f"{name} and the class folders disagree on {len(torn):,} of {len(table.files):,} images: {first_of(torn)}",
            fix="correct one of them, or move the table away",
        )
    return table if len(table.files) >= len(folders.files) else folders


def _ignored(tables: list[Table]) -> list[Finding]:
    return [
        Finding("note", "table-without-labels", f"{table.name} names no label of images ({first_of(table.columns)})")
        for table in tables
    ]


def _with_tables(error: DatasetError, tables: list[Table], listing: Listing) -> DatasetError:
    """The refusal, with what else was found and what would be accepted."""
    found = [f"{table.name} has the columns {first_of(table.columns, 8)}, and none of labels" for table in tables]
    if listing.others and not listing.files:
        suffix = listing.others[0][listing.others[0].rfind(".") :].lower()
        found.append(f"it holds {len(listing.others):,} pictures of other kinds: {OTHER_SUFFIXES[suffix]}")
    found += [f"{path} is not read (Parquet)" for path in listing.documents if path.endswith(".parquet")][:1]
    text = "; ".join((error.message, *found))
    return DatasetError(text, fix=f"{error.fix}; accepted are {ACCEPTED}" if error.fix else f"accepted are {ACCEPTED}")


def _grouped(layout: Layout, pattern: PathPattern | None) -> Layout:
    """Raises DatasetError where the pattern matches no image."""
    if pattern is None:
        return layout
    found = [pattern.match(entry.file.path) for entry in layout.files]
    if not any(found):
        raise DatasetError(
            f"no image matches the pattern of groups {pattern.text!r}, such as {layout.files[0].file.path}",
            fix="the whole path below the folder has to match; ** stands for any folders",
        )
    files = [
        entry if match is None else replace(entry, group=match["group"])
        for entry, match in zip(layout.files, found, strict=True)
    ]
    return replace(layout, files=tuple(files))
