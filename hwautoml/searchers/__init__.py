"""Multi-objective search under limits; one file per searcher, found by name, those of other packages too."""

from __future__ import annotations

from typing import cast

from hwautoml.core.plugins import Plugins
from hwautoml.errors import InvalidValueError
from hwautoml.searchers.problem import Searcher

SEARCHERS = Plugins(
    "searcher",
    "hwautoml.searchers",
    {name: f"hwautoml.searchers.{name}" for name in ("surrogate", "nsga2", "random")},
)


def load_searcher(name: str) -> Searcher:
    """The module or object called ``name``.

    Raises:
        UnknownNameError: no searcher has that name; the known ones are listed, nearest first.
        MissingDependencyError: another package offers it, and it cannot be imported.
        InvalidValueError: what another package offers is no searcher.
    """
    found = SEARCHERS.load(name)
    if not callable(getattr(found, "search", None)):
        raise InvalidValueError(
            f"searcher {name!r} of package {SEARCHERS.origin(name)!r} is {found!r:.80}, which has no search(problem)",
            fix="see docs/extending/searcher.md",
        )
    return cast(Searcher, found)
