"""The public verbs; the only package that wires rooms together.

Verbs load on first use, so that ``hwautoml --help`` never imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hwautoml.pipeline.verbs.benching import bench
    from hwautoml.pipeline.verbs.checking_data import check
    from hwautoml.pipeline.verbs.compiling import compile
    from hwautoml.pipeline.verbs.inspecting import doctor, targets
    from hwautoml.pipeline.verbs.lending import agent, boards
    from hwautoml.pipeline.verbs.making_tables import estimate_table, export_networks, import_table
    from hwautoml.pipeline.verbs.profiling import profile
    from hwautoml.pipeline.verbs.records import inspect_records, merge_records
    from hwautoml.pipeline.verbs.reopening import export, report, search
    from hwautoml.pipeline.verbs.runner_building import build
    from hwautoml.pipeline.verbs.running import run
    from hwautoml.pipeline.verbs.tables import compare_tables, inspect_table, merge_tables
    from hwautoml.pipeline.verbs.tuning import tune
    from hwautoml.pipeline.verbs.verifying import verify

__all__ = [
    "agent",
    "bench",
    "boards",
    "build",
    "check",
    "compare_tables",
    "compile",
    "doctor",
    "estimate_table",
    "export",
    "export_networks",
    "import_table",
    "inspect_records",
    "inspect_table",
    "merge_records",
    "merge_tables",
    "profile",
    "report",
    "run",
    "search",
    "targets",
    "tune",
    "verify",
]

_MODULE_OF = {
    "agent": "lending",
    "bench": "benching",
    "boards": "lending",
    "build": "runner_building",
    "check": "checking_data",
    "compare_tables": "tables",
    "compile": "compiling",
    "doctor": "inspecting",
    "estimate_table": "making_tables",
    "export": "reopening",
    "export_networks": "making_tables",
    "import_table": "making_tables",
    "inspect_records": "records",
    "inspect_table": "tables",
    "merge_records": "records",
    "merge_tables": "tables",
    "profile": "profiling",
    "report": "reopening",
    "run": "running",
    "search": "reopening",
    "targets": "inspecting",
    "tune": "tuning",
    "verify": "verifying",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"hwautoml.pipeline.verbs.{_MODULE_OF[name]}"), name)
