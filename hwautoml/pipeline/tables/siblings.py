"""The prior of a device that few networks are measured on: the tables of devices like it, or its datasheet."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.sibling_prior import sibling_prior_table
from hwautoml.core.space import SearchSpace
from hwautoml.core.table_identity import TableIdentity
from hwautoml.core.target import Target
from hwautoml.errors import RunFolderError
from hwautoml.pipeline.tables.finding import estimated_table
from hwautoml.pipeline.tables.reading import load_table, profile_command
from hwautoml.store.table_library import TableLibrary

_log = logging.getLogger(__name__)


def prior_table(
    like: Sequence[str | Path],
    target: Target,
    space: SearchSpace,
    identity: TableIdentity,
    library: TableLibrary,
    *,
    leaving_out: Path,
) -> LatencyTable:
    """From the tables that ``like`` names (targets, or table files); the datasheet's roofline where it names none.

    ``leaving_out`` is the table about to be made: it is no sibling of itself.

    Raises:
        RunFolderError: a named target has no table of this space, or a named file is damaged or of another space.
    """
    if not like:
        return estimated_table(target, space, identity)
    siblings = [_sibling(name, identity, library, leaving_out) for name in like]
    return sibling_prior_table(siblings, identity, cost=space.cost)


def _sibling(name: str | Path, identity: TableIdentity, library: TableLibrary, leaving_out: Path) -> LatencyTable:
    if isinstance(name, Path) or Path(name).suffix == ".json":
        table = load_table(Path(name))
        if table.space != identity.space:
            raise RunFolderError(
                f"{name} cannot be a sibling: space is {table.space!r}, needed {identity.space!r}",
                fix=profile_command(replace(identity, target=table.target)),
            )
    else:
        table = _best_table(name, identity, library, leaving_out)
    differences = table.identity.differences(identity, ignoring=("target",))
    if differences:
        _log.warning("sibling %s is less alike than it could be: %s", name, "; ".join(differences))
    return table


def _best_table(name: str, identity: TableIdentity, library: TableLibrary, leaving_out: Path) -> LatencyTable:
    """The first of those that share most with ``identity``, layers measured before few-shot."""
    found = [table for table in _tables_of(name, library, leaving_out) if table.space == identity.space]
    measured = [table for table in found if table.origin == "measured"]
    if not measured:
        folders = ", ".join(str(folder / name) for folder in library.folders)
        raise RunFolderError(
            f"target {name!r} has no measured table of {identity.space} (looked in {folders}); "
            f"targets that have one: {', '.join(_known(identity.space, library)) or 'none'}",
            fix=f"{profile_command(replace(identity, target=name))}, or leave --like out to start from the datasheet",
        )

    def likeness(table: LatencyTable) -> tuple[bool, ...]:
        fields = ("runtime", "precision", "batch", "num_threads")
        is_alike = (getattr(table.identity, field) == getattr(identity, field) for field in fields)
        return (*is_alike, any(entry.origin == "measured" for entry in table.entries.values()))

    return max(measured, key=likeness)  # the first of several that are equal


def _tables_of(name: str, library: TableLibrary, leaving_out: Path) -> Iterator[LatencyTable]:
    """Readable ones, the user's before those that ship; others are named in the log."""
    for path in library.tables_of(name):
        if path.absolute() == leaving_out.absolute():
            continue
        try:
            yield load_table(path)
        except RunFolderError as error:
            _log.warning("%s is not used: %s", path, error)


def _known(space: str, library: TableLibrary) -> list[str]:
    tables = ((name, table) for name in library.targets for table in _tables_of(name, library, Path()))
    return sorted({name for name, table in tables if table.space == space and table.origin == "measured"})
