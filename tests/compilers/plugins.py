"""Runtimes that other packages bring, installed as pip leaves them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from hwautoml import compilers
from hwautoml.core.plugins import Plugins

#: ONNX Runtime under another name.
THEIRS = """
from dataclasses import replace
from hwautoml.compilers.onnxruntime import *
from hwautoml.compilers.onnxruntime import TRAITS as OWN
TRAITS = replace(OWN, name="theirs", own_suffixes=(), on_boards=None)
"""
BROKEN = "import no_such_module"


def install_runtimes(site: Path, monkeypatch: pytest.MonkeyPatch, sources: Mapping[str, str]) -> None:
    """A package for each, with a runtime of its own name; found in this process and in those that it starts."""
    for name, source in sources.items():
        (site / f"{name}.py").write_text(source)
        info = site / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[hwautoml.runtimes]\n{name} = {name}\n")
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.syspath_prepend(site)
    found = Plugins(compilers.RUNTIMES.noun, compilers.RUNTIMES.group, compilers.RUNTIMES.built_in)
    compilers._warn_once.cache_clear()
    monkeypatch.setattr(compilers, "RUNTIMES", found)  # which had looked already
