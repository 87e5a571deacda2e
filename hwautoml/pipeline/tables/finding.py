"""Which latency table a target, a form and a space have: found where a valid one exists, measured where not."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path

from hwautoml.compilers import all_traits, load_backend
from hwautoml.core.board import HERE, Board
from hwautoml.core.form import Form
from hwautoml.core.latency_prior import roofline_table
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.progress import OnProgress, Progress, silent
from hwautoml.core.resources import package_folder
from hwautoml.core.space import SearchSpace
from hwautoml.core.table_identity import TableIdentity
from hwautoml.core.target import Target
from hwautoml.devices.machine import fingerprint
from hwautoml.errors import MissingDependencyError, RunFolderError, UnknownNameError
from hwautoml.pipeline.connecting import device_for, unavailable_reason
from hwautoml.pipeline.tables.measuring import measure_table, with_code_version
from hwautoml.pipeline.tables.reading import load_table, profile_command
from hwautoml.pipeline.tables.shipped_records import take_over_shipped_records
from hwautoml.profilers.journal import wait_while_held
from hwautoml.store.table_library import TableLibrary

_PATIENCE = 2.0  # times one's own budget: the other's may be larger

_log = logging.getLogger(__name__)


def ensure_table(
    target: Target,
    form: Form,
    space: SearchSpace,
    library: TableLibrary,
    *,
    budget_sec: float,
    board: Board = HERE,
    batch: int = 1,
    seed: int = 0,
    on_progress: OnProgress = silent,
) -> LatencyTable:
    """A valid table from a file; else measured, here or on the board; else, with no access to the device, estimated."""
    identity = identity_of(target, form, space, batch)
    is_reachable = unavailable_reason(target, board) is None
    with device_for(target, form.runtime, board, all_boards=True) if is_reachable else nullcontext() as opened:
        machine = None if opened is None or not board.is_remote else str(opened.conditions()["fingerprint"])
        table = find_table(target, identity, library, board=board, machine=machine)
        if table is not None and not (opened is not None and _is_worth_more_time(table, budget_sec)):
            return table
        if opened is None:
            _log.warning("%s cannot be measured from here: its latencies are estimated from the datasheet", target.name)
            return estimated_table(target, space, identity)
        path = table_path(target, identity, library, board)
        if _others_have_measured(path, budget_sec, on_progress):
            table = find_table(target, identity, library, board=board, machine=machine)
            if table is not None:
                return table
        return measure_table(
            space,
            target,
            identity,
            path,
            opened,
            records=take_over_shipped_records(target.name, library),
            budget_sec=budget_sec,
            seed=seed,
            on_progress=on_progress,
        )


def _others_have_measured(path: Path, budget_sec: float, on_progress: OnProgress) -> bool:
    """Whether another process was at work on the table at ``path`` and is done: two would disturb each other."""

    def tell(owner: str) -> None:
        on_progress(Progress("profile", 0.0, f"process {owner} measures this table already: waiting for it"))

    return wait_while_held(path.with_suffix(".lock"), _PATIENCE * budget_sec, tell)


def find_table(
    target: Target,
    identity: TableIdentity,
    library: TableLibrary,
    *,
    board: Board = HERE,
    machine: str | None = None,
) -> LatencyTable | None:
    """The first valid one; a table that does not fit is passed over and named in the log.

    ``machine`` is the fingerprint of the device where it is known; a target of this machine must have its.
    """
    is_here = target.connection == "local" and not board.is_remote
    version = load_backend(identity.runtime).version() if is_here else None
    machine = fingerprint(identity.runtime, version or "") if is_here else machine
    for path in library.candidates(identity, is_elsewhere=_is_elsewhere(target, board)):
        try:
            table = load_table(path)
        except RunFolderError as error:
            _log.warning("%s is not used: %s", path, error)
            continue
        reason = _misfit(table, identity, version)
        if reason is not None:
            _log.warning("%s is not used: %s", path, reason)
            continue
        if machine is not None and table.conditions.get("fingerprint") != machine:
            # Tables that ship are of one machine, and that it is not this one is nothing to warn of.
            level = logging.INFO if path.is_relative_to(package_folder("profiles")) else logging.WARNING
            _log.log(level, "%s is not used: it was measured on another machine", path)
            continue
        return table
    return None


def _misfit(table: LatencyTable, identity: TableIdentity, version: str | None) -> str | None:
    """Why it is not a table of ``identity`` made by the runtime of ``version`` (None: not known here) and by our code.

    An estimated table has no runtime version and is not compared.
    """
    problems = list(table.identity.differences(identity))
    needed = None if version is None else with_code_version(identity.runtime, version)
    if table.runtime_version is not None and needed not in (None, table.runtime_version):
        problems.append(f"runtime_version is {table.runtime_version!r}, needed {needed!r}")
    if problems:
        return f"it does not fit: {'; '.join(problems)}\n  fix: {profile_command(identity)}"
    if table.runtime_version is not None and with_code_version(identity.runtime, "") not in table.runtime_version:
        return "it was measured with other code than this version's"
    return None


def identity_of(target: Target, form: Form, space: SearchSpace, batch: int = 1) -> TableIdentity:
    """Raises InvalidValueError for a batch below 1 or a precision that the target does not compute in."""
    target.require_precision(form.precision)
    return TableIdentity(target.name, form.runtime, target.num_threads, batch, form.precision, space.family)


def table_path(target: Target, identity: TableIdentity, library: TableLibrary, board: Board = HERE) -> Path:
    """Where the table that is measured on ``board`` is written."""
    return library.table_path(identity, is_elsewhere=_is_elsewhere(target, board))


def estimated_table(target: Target, space: SearchSpace, identity: TableIdentity) -> LatencyTable:
    """A roofline from the datasheet; every entry is "estimated"."""
    return roofline_table(target, [(layer, space.cost(layer)) for layer in space.all_layers()], identity)


def usable_runtimes(target: Target) -> tuple[str, ...]:
    """The target's runtimes that are installed here and that we have a backend for, in its order of preference."""
    known = all_traits()
    return tuple(r for r in target.runtimes if r in known and load_backend(r).unavailable_reason() is None)


def runtimes_of(target: Target) -> tuple[str, ...]:
    """What may be named for a target: its own, in its order, and on this machine whatever else runs on its device."""
    others = all_traits().items() if target.connection == "local" else ()
    return tuple(dict.fromkeys([*target.runtimes, *(name for name, traits in others if traits.runs_on(target))]))


def choose_runtime(target: Target, wanted: str) -> str:
    """``auto`` is the target's first usable one; another one by name, if it is among `runtimes_of` the target.

    Raises:
        UnknownNameError: the target has no such runtime.
        MissingDependencyError: it is not installed.
    """
    usable = usable_runtimes(target)
    if wanted != "auto" and wanted not in runtimes_of(target):
        raise UnknownNameError(f"runtime of target {target.name}", wanted, runtimes_of(target))
    if wanted == "auto":
        if not usable and target.connection == "local":
            raise MissingDependencyError(
                f"none of {target.name}'s runtimes {target.runtimes} is usable: hwautoml doctor"
            )
        return usable[0] if usable else target.runtimes[0]
    reason = load_backend(wanted).unavailable_reason()
    if reason is not None:
        raise MissingDependencyError(f"runtime {wanted!r} is not usable: {reason}")
    return wanted


def _is_elsewhere(target: Target, board: Board) -> bool:
    return board.is_remote and target.connection == "local"


def _is_worth_more_time(table: LatencyTable, budget_sec: float) -> bool:
    """Layers were left out for lack of time, and there is clearly more of it now."""
    left_out, spent = table.conditions.get("num_layers_inferred"), table.conditions.get("seconds")
    is_few_shot = table.conditions.get("num_layers_measured") == 0  # by choice, not for lack of time
    is_short = isinstance(left_out, int) and left_out > 0 and isinstance(spent, float) and spent < 0.7 * budget_sec
    return is_short and not is_few_shot
