"""Real stores, targets and tables for 8x8 grey images, without measuring or training anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hwautoml.compilers import load_backend
from hwautoml.core.board import HERE
from hwautoml.core.form import Form
from hwautoml.core.latency_file import save
from hwautoml.core.latency_prior import roofline_table
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.progress import silent
from hwautoml.core.resources import target_folders
from hwautoml.core.target import Target, load_target
from hwautoml.datasets import ImageDataset, load_dataset
from hwautoml.devices.machine import fingerprint
from hwautoml.pipeline.runs.context import Devices, RunContext
from hwautoml.pipeline.runs.journal import Journal
from hwautoml.pipeline.runs.resources import Resources
from hwautoml.pipeline.runs.settings import RunSettings
from hwautoml.pipeline.tables.finding import identity_of
from hwautoml.spaces.mobile import MobileSpace
from hwautoml.store.run_store import RunStore
from hwautoml.store.table_library import TableLibrary
from tests.pipeline.shared_tables import as_measured

SPACE = MobileSpace(8, 1, 10)


@pytest.fixture
def space() -> MobileSpace:
    return SPACE


@pytest.fixture
def cpu() -> Target:
    return load_target("cpu", target_folders())


@pytest.fixture
def gpu() -> Target:
    return load_target("gpu", target_folders())


@pytest.fixture
def table(cpu: Target) -> LatencyTable:
    """Estimated figures under this machine's conditions, so that it is taken for one measured here."""
    costs = [(layer, SPACE.cost(layer)) for layer in SPACE.all_layers()]
    made = roofline_table(cpu, costs, identity_of(cpu, Form("onnxruntime"), SPACE))
    version = load_backend("onnxruntime").version()
    conditions = {"fingerprint": fingerprint("onnxruntime", version), "runtime_version": version}
    return replace(made, conditions=conditions)


@pytest.fixture
def sibling(tmp_path: Path, table: LatencyTable) -> Path:
    """A measured table of another device, where its name leads to it."""
    path = tmp_path / "boards" / "oldboard" / "onnxruntime-mobile-v1-8x8x1-t1-b1-fp32.json"
    save(as_measured(table, target="oldboard", conditions={"runtime_version": "1.0"}), path)
    return path


@pytest.fixture
def profiles_dir(tmp_path: Path, cpu: Target, table: LatencyTable) -> Path:
    """A folder with that table where it is looked for."""
    folder = tmp_path / "profiles"
    path = TableLibrary(folder).table_path(table.identity)
    path.parent.mkdir(parents=True)
    save(table, path)
    return folder


@pytest.fixture(scope="session")
def digits() -> ImageDataset:
    return load_dataset("digits")


@pytest.fixture
def make_run(tmp_path: Path, cpu: Target, digits: ImageDataset) -> Iterator[Callable[..., RunContext]]:
    """A run of the digits that has just begun."""
    runs: list[RunContext] = []

    def make(name: str = "run", **settings: object) -> RunContext:
        given = {"source": "digits", "target": "cpu", "latency_ms": 1.0, **settings}
        journal = Journal(RunStore(tmp_path / name, create=True))
        run_settings = RunSettings(**given)  # type: ignore[arg-type] # names and values are the test's
        runs.append(RunContext(journal, run_settings, cpu, digits, SPACE, Devices(cpu, HERE), silent))
        return runs[-1]

    yield make
    for run in runs:
        run.devices.close()
        run.journal.close()


@pytest.fixture
def resources(table: LatencyTable, digits: ImageDataset) -> Resources:
    """With an estimated table, before training was timed; the limit is 1 ms."""
    return Resources(SPACE, {"onnxruntime": table}, 1.0, digits.train.num_images)
