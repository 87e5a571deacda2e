"""Backends that compile a model for a target and open what they compiled.

One file per backend, found by name (``torch-inductor`` is ``torch_inductor.py``) and imported on first use;
files whose name begins with an underscore, and ``base.py`` (the contract), are no backends.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import cast

from hwautoml.compilers.base import Backend
from hwautoml.errors import UnknownNameError


def backend_names() -> tuple[str, ...]:
    """Names of the backends, sorted; none of them is imported."""
    files = Path(__file__).parent.glob("*.py")
    return tuple(sorted(file.stem.replace("_", "-") for file in files if file.stem != "base" and file.stem[0] != "_"))


def load_backend(name: str) -> Backend:
    """The backend called ``name``; UnknownNameError lists the known ones, nearest first."""
    if name not in backend_names():
        raise UnknownNameError("backend", name, backend_names())
    return cast(Backend, importlib.import_module(f"hwautoml.compilers.{name.replace('-', '_')}"))
