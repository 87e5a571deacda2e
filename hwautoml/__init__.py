"""hwautoml: the best neural network for exactly your device, ready to ship.

The verbs of the command line are functions here::

    import hwautoml as hw
    result = hw.run("digits", target="cpu", latency_ms=0.3, out="runs/demo")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hwautoml.pipeline import (
        agent,
        bench,
        boards,
        build,
        check,
        compare_tables,
        compile,
        doctor,
        estimate_table,
        export,
        export_networks,
        import_table,
        inspect_records,
        inspect_table,
        merge_records,
        merge_tables,
        profile,
        report,
        run,
        search,
        targets,
        tune,
        verify,
    )

__all__ = [
    "__version__",
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


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hwautoml import pipeline

    return getattr(pipeline, name)
