"""The verb ``profile``: real measurements of a tiny space, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwautoml.core.latency_file import load, save
from hwautoml.core.latency_table import Entry, LatencyTable
from hwautoml.core.progress import Progress
from hwautoml.core.target import Target
from hwautoml.errors import InvalidValueError, RunFolderError, TargetUnavailableError
from hwautoml.pipeline import profile
from hwautoml.pipeline.tables.finding import ensure_table, few_shot_path, find_table, identity_of, table_path
from hwautoml.spaces.mobile import MobileSpace

SMALL = {"image_size": 8, "channels": 1, "runtime": "onnxruntime"}
COMMAND = [
    sys.executable,
    "-m",
    "hwautoml.cli",
    "profile",
    "--image-size",
    "8",
    "--channels",
    "grey",
    "--runtime",
    "onnxruntime",
    "--json",
]


@pytest.fixture(autouse=True)
def no_tables_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def as_measured(table: LatencyTable, **changes: object) -> LatencyTable:
    entries = {key: Entry(e.mean_ms, 0.05 * e.mean_ms) for key, e in table.entries.items()}
    return replace(table, entries=entries, **changes)  # type: ignore[arg-type]


@pytest.fixture
def sibling(tmp_path: Path, table: LatencyTable) -> Path:
    """A measured table of another device, where its name leads to it."""
    path = tmp_path / "boards" / "oldboard" / "onnxruntime-mobile-v1-8x8x1-t1-b1-fp32.json"
    save(as_measured(table, target="oldboard", conditions={"runtime_version": "1.0"}), path)
    return path


def journal_of(path: Path) -> list[dict[str, object]]:
    journal = path.with_suffix(".journal.jsonl")
    content = journal.read_text(encoding="utf-8") if journal.is_file() else ""
    return [json.loads(line) for line in content.splitlines(keepends=True) if line.endswith("\n")]


def names(lines: list[dict[str, object]]) -> Counter[tuple[object, object]]:
    return Counter((line["record"], line.get("key", line.get("architecture_id"))) for line in lines)


# From siblings.


def test_few_shot_measures_networks_and_leaves_the_full_table_alone(
    tmp_path: Path, cpu: Target, space: MobileSpace, sibling: Path
) -> None:
    folder, events = tmp_path / "boards", list[Progress]()
    made = profile("cpu", like=["oldboard"], measurements=3, profiles_dir=folder, on_progress=events.append, **SMALL)
    path = few_shot_path(table_path(cpu, "onnxruntime", space, folder))
    assert made["path"] == str(path) and made["origin"] == "measured"
    assert (made["num_measured"], made["num_networks"]) == (0, 3)
    assert made["holdout"]["method"] == "leave one out"
    assert made["conditions"]["siblings"][0]["target"] == "oldboard"
    assert events[-1] == Progress("profile", 1.0)
    assert not table_path(cpu, "onnxruntime", space, folder).exists()
    # It is the table of this target until there is a better one.
    assert ensure_table(cpu, "onnxruntime", space, budget_sec=1000.0, profiles_dir=folder) == load(path)
    full = table_path(cpu, "onnxruntime", space, folder)
    save(as_measured(load(path), observations=()), full)
    assert find_table(cpu, identity_of(cpu, "onnxruntime", space), folder) == load(full) != load(path)
    # A sibling by file, more networks: nothing is measured twice.
    again = profile("cpu", like=[sibling], measurements=4, profiles_dir=folder, **SMALL)
    assert again["num_networks"] == 4
    assert max(names(journal_of(path)).values()) == 1


def test_siblings_alone_give_a_table_that_says_it_is_estimated(tmp_path: Path, sibling: Path) -> None:
    made = profile("cpu", like=[str(sibling)], measurements=0, profiles_dir=tmp_path / "p", **SMALL)
    assert made["origin"] == "estimated" and made["num_networks"] == 0
    assert load(Path(made["path"])).origin == "estimated"


def test_without_siblings_the_datasheet_is_the_prior(tmp_path: Path) -> None:
    made = profile("cpu", measurements=1, profiles_dir=tmp_path, **SMALL)
    assert made["num_estimated"] == 320 and made["origin"] == "measured"


def test_a_sibling_that_shares_more_is_preferred(
    tmp_path: Path, sibling: Path, table: LatencyTable, caplog: pytest.LogCaptureFixture
) -> None:
    other = sibling.with_name("tvm.json")
    save(as_measured(table, target="oldboard", runtime="tvm", num_threads=4), other)
    used = profile("cpu", like=["oldboard"], measurements=0, profiles_dir=tmp_path / "boards", **SMALL)
    assert used["conditions"]["siblings"][0]["runtime"] == "onnxruntime" and caplog.text == ""
    sibling.unlink()
    Path(used["path"]).unlink()
    used = profile("cpu", like=["oldboard"], measurements=0, profiles_dir=tmp_path / "boards", **SMALL)
    assert used["conditions"]["siblings"][0]["runtime"] == "tvm"
    assert "less alike than it could be: runtime is 'tvm', needed 'onnxruntime'" in caplog.text


def test_siblings_that_cannot_serve_are_refused(tmp_path: Path, sibling: Path) -> None:
    folder = tmp_path / "boards"
    with pytest.raises(RunFolderError, match="'rpi9' has no measured table .* that have one: oldboard\n  fix: h"):
        profile("cpu", like=["rpi9"], profiles_dir=folder, **SMALL)
    with pytest.raises(RunFolderError, match="space is 'mobile/v1/8x8x1', needed 'mobile/v1/8x8x3'"):
        profile("cpu", like=[sibling], image_size=8, runtime="onnxruntime", profiles_dir=folder)
    with pytest.raises(RunFolderError, match="no latency table"):
        profile("cpu", like=[tmp_path / "none.json"], profiles_dir=folder, **SMALL)
    sibling.write_text(sibling.read_text(encoding="utf-8")[:500], encoding="utf-8")
    with pytest.raises(RunFolderError, match="is damaged at line [0-9]+, column [0-9]+"):
        profile("cpu", like=[sibling], profiles_dir=folder, **SMALL)


def test_a_board_without_an_address_is_measured_by_hand_or_not_at_all(tmp_path: Path, sibling: Path) -> None:
    options = {**SMALL, "like": [sibling], "profiles_dir": tmp_path}
    with pytest.raises(TargetUnavailableError, match="hwautoml profile --target rpi4 --export-to DIR"):
        profile("rpi4", measurements=2, **options)
    assert profile("rpi4", measurements=0, **options)["origin"] == "estimated"


# By hand.


def test_what_was_measured_by_hand_becomes_a_table(tmp_path: Path, sibling: Path) -> None:
    common = {**SMALL, "like": [sibling], "profiles_dir": tmp_path / "p"}
    exported = profile("rpi4", measurements=4, export_to=tmp_path / "hand", **common)
    lines = Path(exported["csv"]).read_text(encoding="utf-8").splitlines()
    assert len(lines) == 5 and f"--like {sibling}" in exported["next"] and "--threads 4" in exported["next"]
    assert exported["next"] in (tmp_path / "hand" / "README.md").read_text(encoding="utf-8")
    _check_networks(tmp_path / "hand", exported["networks"])

    prior = load(Path(profile("rpi4", measurements=0, **common)["path"]))
    listed = json.loads((tmp_path / "hand" / "networks.json").read_text(encoding="utf-8"))["architectures"]
    space, truth = MobileSpace(8, 1, 10), {}
    for name, values in listed.items():
        truth[name] = 3.0 * prior.predict(space.layers(space.architecture(values))).mean_ms
    rows = [f"{line}{truth[line.split(',')[0]]:.6g} {1.01 * truth[line.split(',')[0]]:.6g}" for line in lines[1:]]
    Path(exported["csv"]).write_text("\n".join([lines[0], *rows]), encoding="utf-8")

    made = profile("rpi4", from_csv=Path(exported["csv"]), **common)
    assert (made["origin"], made["num_networks"], made["runtime_version"]) == ("measured", 4, None)
    assert made["conditions"]["num_samples"] == 8
    assert made["conditions"]["level"] == pytest.approx(3.0, rel=0.02)
    table = load(Path(made["path"]))
    architecture = space.sample(np.random.default_rng(99))
    assert table.predict(space.layers(architecture)).mean_ms == pytest.approx(
        3.0 * prior.predict(space.layers(architecture)).mean_ms, rel=0.1
    )
    with pytest.raises(RunFolderError, match="holds latencies and is not overwritten"):
        profile("rpi4", measurements=4, export_to=tmp_path / "hand", **common)
    with pytest.raises(RunFolderError, match="exported for another table: num_threads is 4, needed 1\n  fix: hwautoml"):
        profile("rpi4", from_csv=Path(exported["csv"]), threads=1, **common)


def _check_networks(folder: Path, files: list[str]) -> None:
    """They open, take uint8 images, and are distinct."""
    from hwautoml.compilers import load_backend

    assert len({(folder / file).read_bytes() for file in files}) == len(files)
    model = load_backend("onnxruntime").open_model(folder / files[0])
    assert model.input_dtype == "uint8" and model.input_shape[3] == 1


def test_a_list_of_networks_that_was_tampered_with_is_refused(tmp_path: Path) -> None:
    exported = profile("rpi4", measurements=2, export_to=tmp_path / "hand", **SMALL)
    listed = tmp_path / "hand" / "networks.json"
    content = json.loads(listed.read_text(encoding="utf-8"))
    first, second = content["architectures"]
    swapped = {first: content["architectures"][second], second: content["architectures"][first]}
    listed.write_text(json.dumps(content | {"architectures": swapped}), encoding="utf-8")
    with pytest.raises(RunFolderError, match=f"{first} is not what its values say"):
        profile("rpi4", from_csv=Path(exported["csv"]), **SMALL)
    listed.write_text(json.dumps(content | {"schema": "networks-by-hand/v0"}), encoding="utf-8")
    with pytest.raises(RunFolderError, match="this version reads .*\n  fix: export the networks again"):
        profile("rpi4", from_csv=Path(exported["csv"]), **SMALL)
    listed.write_text('{"schema": ', encoding="utf-8")
    with pytest.raises(RunFolderError, match="damaged at line 1, column"):
        profile("rpi4", from_csv=Path(exported["csv"]), **SMALL)


# Files that must not be lost.


def test_a_damaged_table_is_reported_with_its_place_and_never_overwritten(
    tmp_path: Path, cpu: Target, space: MobileSpace, profiles_dir: Path
) -> None:
    path = table_path(cpu, "onnxruntime", space, profiles_dir)
    path.write_text(path.read_text(encoding="utf-8").replace('"overhead"', '"overhead'), encoding="utf-8")
    before = path.read_bytes()
    message = f"{path} is damaged at line [0-9]+, column [0-9]+.*\n  fix: move"
    with pytest.raises(RunFolderError, match=message):
        profile("cpu", budget_sec=1.0, profiles_dir=profiles_dir, **SMALL)
    with pytest.raises(RunFolderError, match=message):
        ensure_table(cpu, "onnxruntime", space, budget_sec=1.0, profiles_dir=profiles_dir)
    with pytest.raises(RunFolderError, match=message):
        profile("cpu", estimate=True, out=path, **SMALL)
    with pytest.raises(RunFolderError, match=message):
        profile("cpu", measurements=1, out=path, **SMALL)
    assert path.read_bytes() == before


def test_a_measured_table_is_not_replaced_by_less(tmp_path: Path, table: LatencyTable) -> None:
    path = tmp_path / "measured.json"
    save(as_measured(table), path)
    before = path.read_bytes()
    for options in ({"estimate": True}, {"measurements": 0}, {"measurements": 1}):
        with pytest.raises(RunFolderError, match="holds measured layers .*\n  fix: --out FILE"):
            profile("cpu", out=path, **options, **SMALL)  # type: ignore[arg-type]
    assert path.read_bytes() == before


def test_networks_that_do_not_fit_into_the_budget_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = profile("cpu", measurements=12, budget_sec=0.05, profiles_dir=tmp_path, **SMALL)
    assert 1 <= made["num_networks"] < 12
    assert f"{made['num_networks']} of 12 networks were measured; the same command with a larger" in caplog.text


def test_a_table_of_other_conditions_is_kept_when_a_new_one_is_made(
    tmp_path: Path, cpu: Target, space: MobileSpace, table: LatencyTable
) -> None:
    path = table_path(cpu, "onnxruntime", space, tmp_path)
    save(as_measured(table, conditions={"runtime_version": "0.1", "fingerprint": "x"}), path)
    before = path.read_bytes()
    profile("cpu", budget_sec=0.5, profiles_dir=tmp_path, **SMALL)
    assert path.with_name(path.name + ".old").read_bytes() == before
    assert load(path).runtime_version != "0.1"


def test_an_estimate_is_kept_apart_from_what_is_measured(tmp_path: Path, cpu: Target, space: MobileSpace) -> None:
    made = profile("cpu", estimate=True, profiles_dir=tmp_path, **SMALL)
    assert made["path"].endswith(".estimated.json") and made["origin"] == "estimated"
    assert made["num_estimated"] == len(space.all_layers())
    assert find_table(cpu, identity_of(cpu, "onnxruntime", space), tmp_path) is None


def test_everything_that_a_table_is_valid_for_is_in_its_file_name(tmp_path: Path) -> None:
    variants = (
        {},
        {"runtime": "tvm"},
        {"threads": 2},
        {"batch": 8},
        {"precision": "int8"},
        {"image_size": 9},
        {"space": "nasbench201", "image_size": None, "channels": None},
        {"runtime": "torch"},
    )
    made = [profile("cpu", estimate=True, profiles_dir=tmp_path, **(SMALL | changes)) for changes in variants]  # type: ignore[arg-type]
    assert len({row["path"] for row in made}) == len(variants)
    assert made[3]["batch"] == 8 and made[2]["num_threads"] == 2 and made[4]["precision"] == "int8"


def test_options_that_exclude_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="--export-to and --estimate exclude each other"):
        profile("cpu", export_to=tmp_path, estimate=True)
    with pytest.raises(InvalidValueError, match="--measurements has no meaning with --estimate"):
        profile("cpu", measurements=1, estimate=True)
    with pytest.raises(InvalidValueError, match="--tracker has no meaning with --export-to"):
        profile("cpu", export_to=tmp_path, tracker="a:1", key="k")
    with pytest.raises(InvalidValueError, match="got -1"):
        profile("cpu", measurements=-1)


# Processes.


@pytest.mark.slow
def test_of_two_processes_one_makes_the_table_and_the_other_says_why_not(
    tmp_path: Path, cpu: Target, space: MobileSpace
) -> None:
    command = [*COMMAND, "--budget", "12s", "--profiles-dir", str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ended = sorted(
        [(process.pid, *process.communicate(timeout=200), process.returncode) for process in both],
        key=lambda end: end[3],
    )
    (winner, stdout, stderr, code), (_, empty, refusal, refused) = ended
    assert (code, refused) == (0, RunFolderError.exit_code), stderr + refusal
    assert empty == "" and f"process {winner} is profiling into the same table" in " ".join(refusal.split())
    path = table_path(cpu, "onnxruntime", space, tmp_path)
    assert json.loads(stdout)["path"] == str(path) and load(path).origin == "measured"
    assert max(names(journal_of(path)).values()) == 1


@pytest.mark.slow
def test_sigkill_loses_nothing_and_the_same_command_repeats_nothing(
    tmp_path: Path, cpu: Target, space: MobileSpace
) -> None:
    path = table_path(cpu, "onnxruntime", space, tmp_path)
    command = [*COMMAND, "--budget", "20s", "--profiles-dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(journal_of(path)) < 25 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    interrupted = journal_of(path)
    assert len(interrupted) >= 25 and not path.exists()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = journal_of(path)
    assert lines[: len(interrupted)] == interrupted and len(lines) > len(interrupted)
    assert max(names(lines).values()) == 1
    assert json.loads(done.stdout)["num_measured"] == load(path).conditions["num_layers_measured"]
