"""Errors of tables end with the command that makes them anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwautoml.core.latency_file import dumps
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.table_identity import TableIdentity
from hwautoml.errors import RunFolderError
from hwautoml.pipeline.tables.reading import load_table, profile_command


@pytest.mark.parametrize(
    ("identity", "command"),
    [
        (
            TableIdentity("cpu", "tvm", 2, 1, "fp32", "mobile/v1/32x32x3"),
            "hwautoml profile --target cpu --space mobile --image-size 32 --runtime tvm --threads 2",
        ),
        (
            TableIdentity("my-board", "onnxruntime", 1, 8, "int8", "mobile/v1/8x8x1"),
            "hwautoml profile --target my-board --space mobile --image-size 8 --channels grey --runtime onnxruntime "
            "--threads 1 --batch 8 --precision int8",
        ),
        (
            TableIdentity("cpu", "torch", 1, 1, "fp32", "ofa-mobilenetv3/v1/w1.2/224x224x3"),
            "hwautoml profile --target cpu --space ofa-mobilenetv3 --image-size 224 --runtime torch --threads 1",
        ),
    ],
)
def test_the_command_makes_such_a_table(identity: TableIdentity, command: str) -> None:
    assert profile_command(identity) == command


def test_a_whole_table_is_read(tmp_path: Path, table: LatencyTable) -> None:
    path = tmp_path / "t.json"
    path.write_text(dumps(table), encoding="utf-8")
    assert load_table(path).identity == table.identity


@pytest.mark.parametrize(
    ("changes", "command"),
    [
        ({"schema": "latency-table/v9"}, "hwautoml profile --target cpu --space mobile --image-size 8 --channels grey"),
        ({"schema": "v9", "space": 3}, "hwautoml profile --target T"),
        ({"entries": 3}, "hwautoml profile --target cpu --space mobile --image-size 8 --channels grey"),
    ],
)
def test_a_file_that_cannot_be_used_says_how_to_replace_it(
    tmp_path: Path, table: LatencyTable, changes: dict, command: str
) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps({**json.loads(dumps(table)), **changes}), encoding="utf-8")
    with pytest.raises(RunFolderError, match=f"\n  fix: move {path} away, then: {command}"):
        load_table(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b"null", b'{"target"'])
def test_of_anything_else_only_the_verb_is_known(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.json"
    with pytest.raises(RunFolderError, match="no latency table .*\n  fix: hwautoml profile --target T"):
        load_table(path)
    path.write_bytes(content)
    with pytest.raises(RunFolderError, match=r"t\.json away, then: hwautoml profile --target T"):
        load_table(path)


def test_a_folder_is_not_to_be_moved_away(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    with pytest.raises(RunFolderError, match="name the file of one table") as refusal:
        load_table(tmp_path)
    assert "away" not in str(refusal.value)
