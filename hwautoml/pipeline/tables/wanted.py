"""The table that a command is to make: of what, from which tables, and into which file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hwautoml.compilers import board_runtimes
from hwautoml.core.board import HERE, Board
from hwautoml.core.form import Form
from hwautoml.core.latency_file import save as save_table
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.resources import target_folders
from hwautoml.core.space import SearchSpace
from hwautoml.core.table_facts import TableFacts
from hwautoml.core.table_identity import TableIdentity
from hwautoml.core.target import Target, load_target
from hwautoml.errors import UnknownNameError
from hwautoml.pipeline.connecting import require_reachable
from hwautoml.pipeline.tables.finding import choose_runtime, identity_of, runtimes_of, table_path
from hwautoml.pipeline.tables.measuring import require_no_less
from hwautoml.pipeline.tables.siblings import prior_table
from hwautoml.spaces import load_profiled_space
from hwautoml.store.table_library import TableLibrary, estimated_path, few_shot_path


@dataclass(frozen=True)
class WantedTable:
    """``out`` is the file that the user named, if any; ``board`` where networks are measured, if they are."""

    target: Target
    space: SearchSpace
    identity: TableIdentity
    library: TableLibrary
    out: Path | None = None
    board: Board = HERE

    @property
    def path(self) -> Path:
        return self.out or table_path(self.target, self.identity, self.library, self.board)

    @property
    def few_shot_path(self) -> Path:
        return self.out or few_shot_path(self.path)

    @property
    def estimated_path(self) -> Path:
        return self.out or estimated_path(self.path)

    def prior(self, like: Sequence[str | Path] | None) -> LatencyTable:
        """See ``prior_table``."""
        return prior_table(
            like or (), self.target, self.space, self.identity, self.library, leaving_out=self.few_shot_path
        )


def wanted_table(
    target: str,
    space: str,
    *,
    image_size: int | None,
    channels: int | None,
    runtime: str,
    threads: int | None,
    batch: int,
    precision: str,
    out: Path | None,
    targets_dir: Path | None,
    profiles_dir: Path | None,
    board: Board | None = None,
) -> WantedTable:
    """Of what the arguments of a verb say; ``board`` is None where nothing is to be measured.

    Raises:
        UnknownNameError: no such target, space or runtime.
        InvalidValueError: a size, batch or precision that there cannot be a table of.
        TargetUnavailableError: it is to be measured, and code cannot be run on the target from this machine.
        MissingDependencyError: it is to be measured, and the runtime is not installed.
    """
    found = load_target(target, target_folders(targets_dir))
    found = found if threads is None else replace(found, num_threads=threads)
    if board is not None:
        require_reachable(found, board)
    found.require_precision(precision)
    form = Form(_choose_runtime(found, runtime, board), precision)
    loaded = load_profiled_space(space, image_size=image_size, channels=channels)
    identity = identity_of(found, form, loaded, batch)
    return WantedTable(
        found, loaded, identity, TableLibrary(profiles_dir), None if out is None else Path(out), board or HERE
    )


def save_and_describe(table: LatencyTable, path: Path) -> TableFacts:
    """A damaged file at ``path`` is an error and stays; a table with measurements is not replaced by less."""
    require_no_less(path, table)
    save_table(table, path)
    return TableFacts.of(table, path)


def _choose_runtime(target: Target, wanted: str, board: Board | None) -> str:
    """``auto`` is the target's first usable one, on a board its server's; what isn't measured need not be installed."""
    if board is not None and board.is_remote:
        return board_runtimes()[0] if wanted == "auto" else wanted  # device_for refuses what boards don't run
    if wanted == "auto" or board is not None:
        return choose_runtime(target, wanted)
    if wanted not in runtimes_of(target):
        raise UnknownNameError(f"runtime of target {target.name}", wanted, runtimes_of(target))
    return wanted
