from __future__ import annotations

import json
from pathlib import Path

import pytest

import hwautoml
from tests.invoking import invoke


def test_targets_as_json_and_as_a_table() -> None:
    result = invoke("targets", "--json")
    assert result.exit_code == 0 and result.stderr == ""
    rows = {row["name"]: row for row in json.loads(result.stdout)["targets"]}
    assert {"cpu", "gpu", "rpi4", "rpi5", "jetson-orin-nano"} <= rows.keys()
    assert rows["cpu"]["works_here"] is True and rows["cpu"]["reason"] is None
    assert rows["rpi4"]["works_here"] is False and "network" in rows["rpi4"]["reason"]
    table = invoke("targets").stdout
    assert all(name in table for name in rows)


@pytest.mark.parametrize("words", ["targets show rpi4 --json", "targets --json show rpi4"])
def test_one_target_as_json(words: str) -> None:
    result = invoke(*words.split())
    assert json.loads(result.stdout)["name"] == "rpi4"


def test_own_targets_are_found(tmp_path: Path) -> None:
    text = (Path(hwautoml.__file__).parent.parent / "targets" / "cpu.toml").read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(text.replace("num_threads = 1", "num_threads = 2"), encoding="utf-8")
    shown = json.loads(invoke("targets", "show", "mine", "--targets-dir", tmp_path, "--json").stdout)
    assert shown["name"] == "mine" and shown["num_threads"] == 2


def test_a_new_target_starts_as_a_copy_and_can_be_used_at_once(tmp_path: Path) -> None:
    result = invoke("targets", "new", "my.board-2", "--like", "rpi4", "--targets-dir", tmp_path, "--json")
    made = json.loads(result.stdout)
    path = tmp_path / "my.board-2.toml"
    assert made["path"] == str(path) and made["name"] == "my.board-2" and made["connection"] == "rpc"
    assert "figures of rpi4 so far" in made["description"]
    assert path.read_text(encoding="utf-8").startswith("# my.board-2: copied from rpi4. Replace every figure")
    shown = json.loads(invoke("targets", "show", "my.board-2", "--targets-dir", tmp_path, "--json").stdout)
    assert shown["peak_gflops"] == 57.6
    again = invoke("targets", "new", "my.board-2", "--like", "rpi5", "--targets-dir", tmp_path)
    assert again.exit_code == 2 and "exists already" in again.stderr
    options = ["--target", "my.board-2", "--targets-dir", tmp_path, "--profiles-dir", tmp_path / "p"]
    text = " ".join(invoke("profile", "--estimate", *options).stdout.split())
    assert "ESTIMATED: nothing was measured on this target" in text and "1049 estimated" in text


def test_doctor_names_what_is_here() -> None:
    result = invoke("doctor", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    names = {check["name"]: check for check in found["checks"]}
    assert names["torch"]["ok"] and names["runtime onnxruntime"]["ok"]
    assert all(check["text"] for check in found["checks"]), "what is missing says how to get it"
    assert found["hwautoml"] == hwautoml.__version__ and found["machine"]["num_allowed_cores"] >= 1
