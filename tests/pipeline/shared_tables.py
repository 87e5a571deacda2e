"""Tables of the 8x8 grey space as if they had been measured, and layers as files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hwautoml.core.form import Form
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.layer import Layer
from hwautoml.core.observation import Entry
from hwautoml.core.resources import target_folders
from hwautoml.core.space import SearchSpace
from hwautoml.core.target import Target, load_target
from hwautoml.pipeline.tables.finding import identity_of
from hwautoml.pipeline.tables.probes import probe_builders
from hwautoml.store.table_library import TableLibrary

ORT = Form("onnxruntime")
SMALL = {"image_size": 8, "channels": 1, "runtime": "onnxruntime"}


def path_of(target: Target, space: SearchSpace, folder: Path) -> Path:
    """Where the table of ONNX Runtime is kept."""
    return TableLibrary(folder).table_path(identity_of(target, ORT, space))


def as_measured(table: LatencyTable, **changes: object) -> LatencyTable:
    """``changes`` are fields of the table or of its identity."""
    entries = {key: Entry(e.mean_ms, 0.05 * e.mean_ms) for key, e in table.entries.items()}
    of = {name: value for name, value in changes.items() if name in table.identity.to_json()}
    others = {name: value for name, value in changes.items() if name not in of}
    return replace(table, identity=replace(table.identity, **of), entries=entries, **others)  # type: ignore[arg-type]


def layer_as_onnx(space: SearchSpace, layer: Layer, path: Path) -> Path:
    """One layer with random weights, as a profiler measures it."""
    cpu = load_target("cpu", target_folders())
    return probe_builders(space, cpu, "onnxruntime", path.with_name("no-records")).layer(layer, path)
