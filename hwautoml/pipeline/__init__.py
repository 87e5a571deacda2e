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
    from hwautoml.pipeline.verbs.lending import agent, devices
    from hwautoml.pipeline.verbs.profiling import profile
    from hwautoml.pipeline.verbs.reopening import export, report, search
    from hwautoml.pipeline.verbs.runner_building import build
    from hwautoml.pipeline.verbs.running import run
    from hwautoml.pipeline.verbs.tuning import tune
    from hwautoml.pipeline.verbs.verifying import verify

__all__ = [
    "agent",
    "bench",
    "build",
    "check",
    "compile",
    "devices",
    "doctor",
    "export",
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
    "build": "runner_building",
    "check": "checking_data",
    "compile": "compiling",
    "devices": "lending",
    "doctor": "inspecting",
    "export": "reopening",
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
