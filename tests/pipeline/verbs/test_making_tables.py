"""Tables without measuring here: estimated, or measured by hand by somebody else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from hwautoml.core.latency_file import load
from hwautoml.core.target import Target
from hwautoml.errors import InvalidValueError, RunFolderError
from hwautoml.pipeline import estimate_table, export_networks, import_table
from hwautoml.pipeline.tables.finding import find_table, identity_of
from hwautoml.spaces.mobile import MobileSpace
from hwautoml.store.table_library import TableLibrary
from tests.pipeline.shared_tables import ORT, SMALL


@pytest.fixture(autouse=True)
def no_tables_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_siblings_alone_give_a_table_that_says_it_is_estimated(tmp_path: Path, sibling: Path) -> None:
    made = estimate_table("cpu", like=[str(sibling)], profiles_dir=tmp_path / "p", **SMALL)
    assert made.origin == "estimated" and made.num_networks == 0
    assert load(made.path).origin == "estimated"


def test_an_estimate_is_kept_apart_from_what_is_measured(tmp_path: Path, cpu: Target, space: MobileSpace) -> None:
    made = estimate_table("cpu", profiles_dir=tmp_path, **SMALL)
    assert made.path.name.endswith(".estimated.json") and made.origin == "estimated"
    assert made.num_estimated == len(space.all_layers())
    assert find_table(cpu, identity_of(cpu, ORT, space), TableLibrary(tmp_path)) is None


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
    made = [estimate_table("cpu", profiles_dir=tmp_path, **(SMALL | changes)) for changes in variants]  # type: ignore[arg-type]
    assert len({row.path for row in made}) == len(variants)
    assert made[3].identity.batch == 8 and made[2].identity.num_threads == 2
    assert made[4].identity.precision == "int8"


def test_what_was_measured_by_hand_becomes_a_table(tmp_path: Path, sibling: Path) -> None:
    common = {**SMALL, "like": [sibling], "profiles_dir": tmp_path / "p"}
    exported = export_networks(tmp_path / "hand", target="rpi4", measurements=4, **common)
    lines = exported.csv.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 5 and f"--like {sibling}" in exported.next and "--threads 4" in exported.next
    assert exported.next in (tmp_path / "hand" / "README.md").read_text(encoding="utf-8")
    _check_networks(tmp_path / "hand", exported.networks)

    prior = load(estimate_table("rpi4", **common).path)
    listed = json.loads((tmp_path / "hand" / "networks.json").read_text(encoding="utf-8"))["architectures"]
    space, truth = MobileSpace(8, 1, 10), {}
    for name, values in listed.items():
        truth[name] = 3.0 * prior.predict(space.layers(space.architecture(values))).mean_ms
    rows = [f"{line}{truth[line.split(',')[0]]:.6g} {1.01 * truth[line.split(',')[0]]:.6g}" for line in lines[1:]]
    exported.csv.write_text("\n".join([lines[0], *rows]), encoding="utf-8")

    made = import_table(exported.csv, target="rpi4", **common)
    assert (made.origin, made.num_networks, made.runtime_version) == ("measured", 4, None)
    assert made.conditions["num_samples"] == 8
    assert made.conditions["level"] == pytest.approx(3.0, rel=0.02)
    table = load(made.path)
    architecture = space.sample(np.random.default_rng(99))
    assert table.predict(space.layers(architecture)).mean_ms == pytest.approx(
        3.0 * prior.predict(space.layers(architecture)).mean_ms, rel=0.1
    )
    with pytest.raises(RunFolderError, match="holds latencies and is not overwritten"):
        export_networks(tmp_path / "hand", target="rpi4", measurements=4, **common)
    with pytest.raises(RunFolderError, match="exported for another table: num_threads is 4, needed 1\n  fix: hwautoml"):
        import_table(exported.csv, target="rpi4", threads=1, **common)


def _check_networks(folder: Path, files: Sequence[str]) -> None:
    """They open, take uint8 images, and are distinct."""
    from hwautoml.compilers import load_backend

    assert len({(folder / file).read_bytes() for file in files}) == len(files)
    model = load_backend("onnxruntime").open_model(folder / files[0])
    assert model.input_dtype == "uint8" and model.input_shape[3] == 1


def test_a_list_of_networks_that_was_tampered_with_is_refused(tmp_path: Path) -> None:
    exported = export_networks(tmp_path / "hand", target="rpi4", measurements=2, **SMALL)
    listed = tmp_path / "hand" / "networks.json"
    content = json.loads(listed.read_text(encoding="utf-8"))
    first, second = content["architectures"]
    swapped = {first: content["architectures"][second], second: content["architectures"][first]}
    listed.write_text(json.dumps(content | {"architectures": swapped}), encoding="utf-8")
    with pytest.raises(RunFolderError, match=f"{first} is not what its values say"):
        import_table(exported.csv, target="rpi4", **SMALL)
    listed.write_text(json.dumps(content | {"schema": "networks-by-hand/v0"}), encoding="utf-8")
    with pytest.raises(RunFolderError, match="this version reads .*\n  fix: export the networks again"):
        import_table(exported.csv, target="rpi4", **SMALL)
    listed.write_text('{"schema": ', encoding="utf-8")
    with pytest.raises(RunFolderError, match="damaged at line 1, column"):
        import_table(exported.csv, target="rpi4", **SMALL)


def test_to_export_no_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="must be at least 1, got 0"):
        export_networks(tmp_path / "hand", measurements=0)
    assert not (tmp_path / "hand").exists()
