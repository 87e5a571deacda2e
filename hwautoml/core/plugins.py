"""Parts that are found by name: those of this package, and those that installed packages offer as entry points.

A package that brings a search space, say, declares it in its ``pyproject.toml``::

    [project.entry-points."hwautoml.spaces"]
    tiny = "my_package.tiny:TinySpace"

and from then on ``tiny`` is a space like any other. Nothing is imported before it is loaded by name.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from hwautoml.errors import MissingDependencyError, UnknownNameError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plugins:
    """One kind of part: ``noun`` is what messages call it, ``group`` the entry points' group (``hwautoml.spaces``).

    ``built_in`` maps the names of this package to ``module:attribute`` or ``module``; they cannot be replaced.
    """

    noun: str
    group: str
    built_in: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Those of this package in its order, then those of other packages, sorted."""
        return tuple(self._found)

    def origin(self, name: str) -> str:
        """The distribution that brings it: ``hwautoml``, or another package's name."""
        return _origin(self._entry(name))

    def load(self, name: str) -> object:
        """The part itself, imported now.

        Raises:
            UnknownNameError: nothing has that name; the known ones are listed, nearest first.
            MissingDependencyError: another package offers it, and it cannot be imported.
        """
        entry = self._entry(name)
        if name in self.built_in:
            return entry.load()
        try:
            return entry.load()
        except (ImportError, AttributeError, SyntaxError) as error:
            raise MissingDependencyError(
                f"{self.noun} {name!r} of package {self.origin(name)!r} cannot be loaded from {entry.value}: {error}",
                fix=f"mend or remove the package: pip uninstall {self.origin(name)}",
            ) from error

    def folders(self, name: str) -> tuple[Path, ...]:
        """Of a part that is a package of data files: where they lie. The package is looked up, not imported.

        Raises:
            UnknownNameError: nothing has that name.
            MissingDependencyError: there is no such package.
        """
        entry = self._entry(name)
        try:
            spec = importlib.util.find_spec(entry.module)
        except ModuleNotFoundError:  # of a parent
            spec = None
        if spec is None or spec.submodule_search_locations is None:
            raise MissingDependencyError(
                f"{self.noun} {name!r} of package {self.origin(name)!r} is to be a folder, and {entry.value} is none",
                fix=f"mend or remove the package: pip uninstall {self.origin(name)}",
            )
        return tuple(Path(location) for location in spec.submodule_search_locations)

    def _entry(self, name: str) -> EntryPoint:
        if name not in self._found:
            raise UnknownNameError(self.noun, name, self.names)
        return self._found[name]

    @cached_property
    def _found(self) -> dict[str, EntryPoint]:
        found = {name: EntryPoint(name, value, self.group) for name, value in self.built_in.items()}
        for entry in sorted(entry_points(group=self.group), key=lambda entry: entry.name):
            if entry.name in found:
                kept = _origin(found[entry.name])
                _log.warning("%s %r of %s is passed over: %s has one", self.noun, entry.name, _origin(entry), kept)
                continue
            found[entry.name] = entry
        return found


def _origin(entry: EntryPoint) -> str:
    return "hwautoml" if entry.dist is None else entry.dist.name
