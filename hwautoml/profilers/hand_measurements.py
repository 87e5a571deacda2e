"""Latencies that a person measured: a CSV with one row per network, written empty and read back filled in."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from hwautoml.errors import RunFolderError

COLUMNS = ("architecture_id", "file", "latency_ms")
_MAX_PROBLEMS = 10  # named in one error


def template(files: Mapping[str, str]) -> str:
    """The text of an empty CSV for networks given as id: file."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((architecture_id, file, "") for architecture_id, file in files.items())
    return out.getvalue()


def read_measurements(path: Path, files: Mapping[str, str]) -> dict[str, tuple[float, ...]]:
    """Samples in ms by architecture id, at least one for each of ``files`` (id: file), in their order.

    ``latency_ms`` holds one sample, or several separated by spaces. Blank lines are skipped.

    Raises:
        RunFolderError: the file is missing or no CSV of these columns, or rows are wrong (an unknown or repeated id,
            no positive number, a network without a row): all of them in one message, with their line numbers.
    """
    samples: dict[str, tuple[float, ...]] = {}
    lines: dict[str, int] = {}
    problems = []
    for line, row in _rows(path):
        name, problem = row[0].strip(), _problem(row, files, lines)
        if problem is None:
            samples[name] = tuple(float(text) for text in row[2].split())
        else:
            problems.append(f"line {line}: {problem}")
        lines.setdefault(name, line)
    problems += [f"no row for {name} ({file})" for name, file in files.items() if name not in lines]
    if problems:
        more = [f"and {len(problems) - _MAX_PROBLEMS} more"] if len(problems) > _MAX_PROBLEMS else []
        raise RunFolderError(
            f"{path} cannot be used:\n  " + "\n  ".join(problems[:_MAX_PROBLEMS] + more),
            fix="one row per network: id, file, and one latency in milliseconds or several separated by spaces",
        )
    return {name: samples[name] for name in files}


def _problem(row: list[str], files: Mapping[str, str], lines: Mapping[str, int]) -> str | None:
    if len(row) != len(COLUMNS):
        return f"{len(row)} fields, expected {len(COLUMNS)} ({','.join(COLUMNS)}; write 1.5, not 1,5)"
    name, texts = row[0].strip(), row[2].split()
    if name not in files:
        return f"unknown architecture {name!r}"
    if name in lines:
        return f"{name} was on line {lines[name]} already; several samples belong on one line, separated by spaces"
    if not texts:
        return f"latency_ms of {name} is missing"
    wrong = [text for text in texts if not _is_latency(text)]
    return f"latency_ms of {name} must be positive milliseconds, got {wrong[0]!r}" if wrong else None


def _is_latency(text: str) -> bool:
    try:
        value = float(text)
    except ValueError:
        return False
    return math.isfinite(value) and value > 0


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) after the header; what a spreadsheet saves (a byte order mark, CR LF) is read as well."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise RunFolderError(
            f"there is no file {path}", fix="name DIR/measurements.csv, which hwautoml tables export DIR writes"
        ) from None
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise RunFolderError(f"{path} is no CSV file: {error}") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [field.strip() for field in next(reader, [])]
        if header != list(COLUMNS):
            raise RunFolderError(
                f"{path} line 1 is {','.join(header)!r}, expected {','.join(COLUMNS)!r} (fields separated by commas)"
            )
        for row in reader:
            if any(field.strip() for field in row):
                yield reader.line_num, row
    except csv.Error as error:
        raise RunFolderError(f"{path} is damaged at line {reader.line_num}: {error}") from error
