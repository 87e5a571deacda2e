"""Verb ``profile``: make a latency table by whatever access there is to a device, or look at finished tables."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hwautoml.compilers import board_runtimes
from hwautoml.core.board import Board
from hwautoml.core.duration import require_duration
from hwautoml.core.latency_file import save as save_table
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.progress import OnProgress, Progress, silent
from hwautoml.core.resources import target_folders
from hwautoml.core.space import SearchSpace
from hwautoml.core.table_identity import TableIdentity
from hwautoml.core.target import Target, load_target
from hwautoml.errors import InvalidValueError, UnknownNameError
from hwautoml.pipeline.connecting import device_for, require_reachable
from hwautoml.pipeline.tables import by_hand
from hwautoml.pipeline.tables import tools as table_tools
from hwautoml.pipeline.tables.finding import (
    choose_runtime,
    estimated_table,
    few_shot_path,
    identity_of,
    records_path,
    runtimes_of,
    table_path,
)
from hwautoml.pipeline.tables.measuring import measure_table, require_no_less
from hwautoml.pipeline.tables.siblings import prior_table
from hwautoml.spaces import load_profiled_space

DEFAULT_MEASUREMENTS = 10

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Wanted:
    """The table to be made, where it goes, and the way to its device; ``out`` is what the user named, if anything."""

    target: Target
    space: SearchSpace
    identity: TableIdentity
    out: Path | None
    board: Board
    budget_sec: float
    seed: int
    targets_dir: Path | None
    profiles_dir: Path | None
    on_progress: OnProgress

    @property
    def path(self) -> Path:
        if self.out is not None:
            return self.out
        return table_path(
            self.target,
            self.identity.runtime,
            self.space,
            self.profiles_dir,
            batch=self.identity.batch,
            precision=self.identity.precision,
            is_remote=self.board.is_remote,
        )

    @property
    def few_shot_path(self) -> Path:
        return self.out or few_shot_path(self.path)

    @property
    def estimated_path(self) -> Path:
        """Not where tables are looked for: an estimate is made anew where it is needed."""
        return self.out or self.path.with_name(f"{self.path.stem}.estimated.json")


def profile(
    target: str = "cpu",
    *,
    space: str = "mobile",
    image_size: int | None = None,
    channels: int | None = None,
    runtime: str = "auto",
    threads: int | None = None,
    batch: int = 1,
    precision: str = "fp32",
    device: str | None = None,
    tracker: str | None = None,
    key: str | None = None,
    like: Sequence[str | Path] | None = None,
    measurements: int | None = None,
    export_to: Path | None = None,
    from_csv: Path | None = None,
    estimate: bool = False,
    inspect: Path | None = None,
    compare: tuple[Path, Path] | None = None,
    merge: tuple[Path, Path] | None = None,
    out: Path | None = None,
    picture: Path | None = None,
    budget_sec: float = 300.0,
    seed: int = 0,
    targets_dir: Path | None = None,
    profiles_dir: Path | None = None,
    on_progress: OnProgress = silent,
) -> dict[str, Any]:
    """Make the latency table of a space on a target, and tell what it holds (``table_tools.facts``).

    ``result["path"]`` is its file (``out``, by default in ``profiles_dir`` or the user's configuration folder);
    ``core.latency_file.load`` reads it. Ways to a table, the best first:

    - every layer measured (the default), here or on the board at ``device`` or ``tracker``. Interrupted, it goes
      on where it was; finished, a larger ``budget_sec`` adds to it.
    - ``measurements`` networks measured, which correct a prior from the tables of the targets (or the table
      files) that ``like`` names, or from the datasheet where it names none.
    - the same by hand: ``export_to`` writes the networks and a CSV to be filled in, ``from_csv`` reads it back.
    - ``estimate``: nothing measured, a roofline from the target's datasheet.

    Or something about finished tables: ``inspect`` one, ``compare`` two, ``merge`` two into ``out``; ``picture`` is a
    PNG file for the first two.

    Raises:
        InvalidValueError: options that exclude each other, or an unknown space, runtime, precision or size.
        TargetUnavailableError: code cannot be run on the target from this machine.
        RunFolderError: a table, journal or CSV is damaged or does not fit; files are left as they are.
    """
    ways = {
        "--export-to": export_to,
        "--from-csv": from_csv,
        "--estimate": estimate or None,
        "--inspect": inspect,
        "--compare": compare,
        "--merge": merge,
    }
    board = Board(device, tracker, key)
    few_shot = {"--like": like or None, "--measurements": measurements}
    _require_consistent(ways, few_shot, board, out, picture)
    require_duration(budget_sec, "budget_sec")
    if inspect is not None:
        return table_tools.inspect_table(Path(inspect), picture=picture)
    if compare is not None:
        return table_tools.compare_tables(Path(compare[0]), Path(compare[1]), picture=picture)
    if merge is not None and out is not None:
        return table_tools.merge_tables(Path(merge[0]), Path(merge[1]), out=Path(out))

    found = load_target(target, target_folders(targets_dir))
    found = found if threads is None else replace(found, num_threads=threads)
    is_measuring = not (export_to or from_csv or estimate or measurements == 0)
    if is_measuring:
        require_reachable(found, board)
    chosen = _choose_runtime(found, runtime, board, is_measuring)
    loaded = load_profiled_space(space, image_size=image_size, channels=channels)
    wanted = _Wanted(
        found,
        loaded,
        identity_of(found, chosen, loaded, batch, precision),
        None if out is None else Path(out),
        board,
        budget_sec,
        seed,
        targets_dir,
        profiles_dir,
        on_progress,
    )
    if estimate:
        return _saved(estimated_table(found, loaded, wanted.identity), wanted.estimated_path)
    if export_to is None and from_csv is None and few_shot == {"--like": None, "--measurements": None}:
        return _measured(wanted, wanted.path)
    number = DEFAULT_MEASUREMENTS if measurements is None else measurements
    return _few_shot(wanted, like or (), number, export_to, from_csv)


def _few_shot(
    wanted: _Wanted, like: Sequence[str | Path], number: int, export_to: Path | None, from_csv: Path | None
) -> dict[str, Any]:
    """A prior corrected by ``number`` networks, measured now or by hand; by none if it is 0."""
    space, identity, path = wanted.space, wanted.identity, wanted.few_shot_path
    prior = prior_table(like, wanted.target, space, identity, wanted.profiles_dir, leaving_out=path)
    if export_to is not None:
        flags = {
            "--like": ",".join(map(str, like)) or None,
            "--targets-dir": wanted.targets_dir,
            "--profiles-dir": wanted.profiles_dir,
            "--out": wanted.out,
        }
        return by_hand.export_networks(
            prior, space, wanted.target, identity, number, Path(export_to), flags=flags, seed=wanted.seed
        )
    if from_csv is not None:
        return _saved(by_hand.table_from_csv(prior, space, identity, Path(from_csv)), path)
    return _measured(wanted, path, prior, number) if number else _saved(prior, path)


def _measured(wanted: _Wanted, path: Path, prior: LatencyTable | None = None, num_networks: int = 0) -> dict[str, Any]:
    """Measures every layer, or with a ``prior`` so many networks."""
    with device_for(wanted.target, wanted.identity.runtime, wanted.board, all_boards=True) as device:
        table = measure_table(
            wanted.space,
            wanted.target,
            wanted.identity,
            path,
            device,
            records=records_path(wanted.target, wanted.profiles_dir),
            budget_sec=wanted.budget_sec,
            prior=prior,
            num_networks=num_networks,
            seed=wanted.seed,
            on_progress=wanted.on_progress,
        )
    if prior is not None and len(table.observations) < num_networks:
        _log.warning(
            "%d of %d networks were measured; the same command with a larger --budget goes on",
            len(table.observations),
            num_networks,
        )
    wanted.on_progress(Progress("profile", 1.0))
    return table_tools.facts(table, path)


def _saved(table: LatencyTable, path: Path) -> dict[str, Any]:
    """A damaged file at ``path`` is an error and stays; a table with measurements is not replaced by less."""
    require_no_less(path, table)
    save_table(table, path)
    return table_tools.facts(table, path)


def _require_consistent(
    ways: Mapping[str, object],
    few_shot: Mapping[str, object],
    board: Board,
    out: Path | None,
    picture: Path | None,
) -> None:
    """Raises InvalidValueError for the first option that would have no effect."""
    given = [flag for flag, value in ways.items() if value is not None]
    if len(given) > 1:
        raise InvalidValueError(f"{given[0]} and {given[1]} exclude each other", fix="give one of them")
    way = given[0] if given else None
    for flag, value in few_shot.items():
        if value is not None and way in ("--estimate", "--inspect", "--compare", "--merge"):
            raise InvalidValueError(f"{flag} has no meaning with {way}", fix=f"leave {flag} out")
    for name, value in asdict(board).items():
        if value is not None and way is not None:
            raise InvalidValueError(f"--{name} has no meaning with {way}, which measures nothing", fix="leave it out")
    number = few_shot["--measurements"]
    if isinstance(number, int) and number < (1 if way == "--export-to" else 0):
        raise InvalidValueError(f"--measurements must not be negative, nor 0 with --export-to, got {number}")
    if way == "--merge" and out is None:
        raise InvalidValueError("--merge needs a file to write", fix="--out FILE.json")
    if out is not None and way in ("--inspect", "--compare"):
        raise InvalidValueError(f"--out has no meaning with {way}, which writes no table", fix="leave --out out")
    if picture is not None and way not in ("--inspect", "--compare"):
        raise InvalidValueError("--picture draws what --inspect or --compare found", fix="give one of them as well")


def _choose_runtime(target: Target, wanted: str, board: Board, is_measuring: bool) -> str:
    """``auto`` is the target's first usable one, on a board its server's; what isn't measured need not be installed."""
    if board.is_remote:
        return board_runtimes()[0] if wanted == "auto" else wanted  # device_for refuses what boards don't run
    if wanted == "auto" or is_measuring:
        return choose_runtime(target, wanted)
    if wanted not in runtimes_of(target):
        raise UnknownNameError(f"runtime of target {target.name}", wanted, runtimes_of(target))
    return wanted
