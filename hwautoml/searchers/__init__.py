"""Multi-objective search under limits; one file per searcher, found by name."""

from __future__ import annotations

import importlib
from typing import cast

from hwautoml.errors import UnknownNameError
from hwautoml.searchers.problem import Searcher

SEARCHERS = ("surrogate", "nsga2", "random")


def load_searcher(name: str) -> Searcher:
    """Raises UnknownNameError, listing the known ones."""
    if name not in SEARCHERS:
        raise UnknownNameError("searcher", name, SEARCHERS)
    # importlib, because random.py must not be confused with the standard library's.
    return cast(Searcher, importlib.import_module(f"hwautoml.searchers.{name}"))
