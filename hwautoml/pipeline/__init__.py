"""The public verbs; the only package that wires rooms together.

Verbs load on first use, so that ``hwautoml --help`` never imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hwautoml.pipeline.benching import bench
    from hwautoml.pipeline.boards import agent, devices
    from hwautoml.pipeline.compiling import compile
    from hwautoml.pipeline.inspecting import doctor, targets
    from hwautoml.pipeline.profiling import profile
    from hwautoml.pipeline.runner_building import build
    from hwautoml.pipeline.running import run
    from hwautoml.pipeline.tuning import tune
    from hwautoml.pipeline.verbs import export, report, search
    from hwautoml.pipeline.verifying import verify

__all__ = [
    "agent",
    "bench",
    "build",
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
    "agent": "boards",
    "bench": "benching",
    "build": "runner_building",
    "compile": "compiling",
    "devices": "boards",
    "doctor": "inspecting",
    "export": "verbs",
    "profile": "profiling",
    "report": "verbs",
    "run": "running",
    "search": "verbs",
    "targets": "inspecting",
    "tune": "tuning",
    "verify": "verifying",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"hwautoml.pipeline.{_MODULE_OF[name]}"), name)
