"""Commands of the release before: they do what they did, and say on stderr how it is typed now."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwautoml.cli.former import present_command
from hwautoml.core.resources import package_folder
from tests.invoking import invoke

TABLE = sorted((package_folder("profiles") / "cpu").glob("*fp32.json"))[0]


@pytest.mark.parametrize(
    ("former", "present"),
    [
        ("profile --inspect t.json --picture p.png", "tables inspect t.json --picture p.png"),
        ("profile --inspect=t.json --json", "tables inspect t.json --json"),
        ("profile --picture p.png --compare a b", "tables compare a b --picture p.png"),
        ("profile --merge a b --out c", "tables merge a b --out c"),
        ("profile --target x --estimate --batch 4", "tables estimate --target x --batch 4"),
        ("profile --like a,b --measurements 0 --target x", "tables estimate --like a,b --target x"),
        ("profile --measurements=0", "tables estimate"),
        ("profile --export-to d --like a --measurements 5", "tables export d --like a --measurements 5"),
        ("profile --like a --from-csv d/m.csv", "tables import d/m.csv --like a"),
        ("tune --target x --inspect", "records inspect --target x"),
        ("tune --merge a --target x --merge=b", "records merge a b --target x"),
        ("devices --tracker a:1", "boards --tracker a:1"),
    ],
)
def test_former_commands_are_todays(former: str, present: str) -> None:
    assert present_command(former.split()) == present.split()
    assert present_command(present.split()) == present.split()


@pytest.mark.parametrize(
    "words",
    [
        "",
        "profile",
        "profile --target x --like a --measurements 10",
        "profile --out=--inspect",
        "tune --target x --records r",
        "bench devices --picture p.png",
        "tables merge a b --out c",
        "targets show profile",
    ],
)
def test_todays_commands_stay_as_they_are(words: str) -> None:
    assert present_command(words.split()) == words.split()


def test_what_is_shown_is_the_same_and_stdout_has_nothing_else() -> None:
    former, present = (
        invoke(*words, "--json") for words in (["profile", "--inspect", TABLE], ["tables", "inspect", TABLE])
    )
    assert former.exit_code == present.exit_code == 0
    assert json.loads(former.stdout) == json.loads(present.stdout)
    assert former.stderr == f"this is now: hwautoml tables inspect {TABLE} --json\n" and present.stderr == ""


def test_an_error_keeps_its_code(tmp_path: Path) -> None:
    former = invoke("profile", "--merge", TABLE, tmp_path / "none.json", "--out", tmp_path / "out.json")
    assert former.exit_code == 10 and "no latency table" in former.stderr and former.stdout == ""
    assert invoke("devices").exit_code == 2


def test_flags_that_no_present_command_has_end_with_code_2() -> None:
    former = invoke("profile", "--inspect", TABLE, "--estimate")
    assert former.exit_code == 2 and former.stdout == ""
    assert former.stderr.startswith("this is now: hwautoml tables inspect") and "No such option" in former.stderr
