"""Which latency table a target, runtime and space have: found where a valid one exists, measured where not."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from hwautoml.compilers import all_traits, load_backend
from hwautoml.compilers.base import BoardRoute, Tuning
from hwautoml.core.board import HERE, Board
from hwautoml.core.latency_file import check_matches
from hwautoml.core.latency_file import load as load_table
from hwautoml.core.latency_file import save as save_table
from hwautoml.core.latency_prior import roofline_table
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.progress import OnProgress, silent
from hwautoml.core.resources import package_folder, profile_folders, user_config_folder
from hwautoml.core.space import SearchSpace
from hwautoml.core.table_identity import TableIdentity
from hwautoml.core.target import Target
from hwautoml.devices.machine import fingerprint
from hwautoml.errors import (
    MissingDependencyError,
    RunFolderError,
    UnknownNameError,
)
from hwautoml.pipeline.connecting import device_for, unavailable_reason
from hwautoml.pipeline.tables.measuring import measure_table, with_code_version
from hwautoml.pipeline.tables.probes import slug
from hwautoml.schedules.records import Records

__all__ = [
    "device_for",
    "ensure_table",
    "find_table",
    "save_table",
    "unavailable_reason",
    "usable_runtimes",
]

FEW_SHOT, RECORDS_FILE = "few-shot", "tvm_records.json"

_log = logging.getLogger(__name__)


def ensure_table(
    target: Target,
    runtime: str,
    space: SearchSpace,
    *,
    budget_sec: float,
    batch: int = 1,
    precision: str = "fp32",
    board: Board = HERE,
    seed: int = 0,
    profiles_dir: Path | None = None,
    on_progress: OnProgress = silent,
) -> LatencyTable:
    """A valid table from a file; else measured here or on the ``board``; else, with no access to it, estimated."""
    reason, is_remote = unavailable_reason(target, board), board.is_remote
    identity = identity_of(target, runtime, space, batch, precision)
    with device_for(target, runtime, board, all_boards=True) if reason is None else nullcontext() as opened:
        machine = None if opened is None or not is_remote else str(opened.conditions()["fingerprint"])
        table = find_table(target, identity, profiles_dir, machine=machine, is_remote=is_remote)
        if table is not None and not (opened is not None and _is_worth_more_time(table, budget_sec)):
            return table
        if opened is None:
            _log.warning("%s cannot be measured from here: its latencies are estimated from the datasheet", target.name)
            return estimated_table(target, space, identity)
        path = table_path(target, runtime, space, profiles_dir, batch=batch, precision=precision, is_remote=is_remote)
        return measure_table(
            space,
            target,
            identity,
            path,
            opened,
            records=records_path(target, profiles_dir),
            budget_sec=budget_sec,
            seed=seed,
            on_progress=on_progress,
        )


def estimated_table(target: Target, space: SearchSpace, identity: TableIdentity) -> LatencyTable:
    """A roofline from the datasheet; every entry is "estimated"."""
    costs = [(layer, space.cost(layer)) for layer in space.all_layers()]
    return roofline_table(
        target, costs, space=space.family, runtime=identity.runtime, batch=identity.batch, precision=identity.precision
    )


def _is_worth_more_time(table: LatencyTable, budget_sec: float) -> bool:
    """Layers were left out for lack of time, and there is clearly more of it now."""
    left_out, spent = table.conditions.get("num_layers_inferred"), table.conditions.get("seconds")
    is_few_shot = table.conditions.get("num_layers_measured") == 0  # by choice, not for lack of time
    is_short = isinstance(left_out, int) and left_out > 0 and isinstance(spent, float) and spent < 0.7 * budget_sec
    return is_short and not is_few_shot


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


def table_folder(profiles_dir: Path | None) -> Path:
    """Where new tables are written."""
    return profiles_dir if profiles_dir is not None else user_config_folder() / "profiles"


def table_path(
    target: Target,
    runtime: str,
    space: SearchSpace,
    profiles_dir: Path | None,
    *,
    batch: int = 1,
    precision: str = "fp32",
    is_remote: bool = False,
) -> Path:
    """Where the table of this identity is written; its name says all that a table is valid for.

    ``is_remote``: measured on a board named by ``--device`` or ``--tracker``.
    """
    identity = identity_of(target, runtime, space, batch, precision)
    return table_folder(profiles_dir) / target.name / _file_name(target, identity, is_remote)


def records_path(target: Target, profiles_dir: Path | None) -> Path:
    """TVM tuning records: they belong to a device, and every later compilation finds them.

    What files of that name beside shipped tables (``./profiles`` and the package's) know better or alone is taken
    over. Records are filed under target and processor, so that those of another processor are never used.

    Raises:
        RunFolderError: one of the files is damaged.
    """
    path = table_folder(profiles_dir) / target.name / RECORDS_FILE
    folders = dict.fromkeys([Path("profiles").absolute(), package_folder("profiles")])
    files = [folder / target.name / RECORDS_FILE for folder in folders]
    shipped = [file for file in files if file.is_file() and not (path.exists() and file.samefile(path))]
    if shipped:
        records = Records.load(path)
        before = {device: dict(entries) for device, entries in records.by_target.items()}
        for file in shipped:
            records.add(Records.load(file))
        if records.by_target != before:
            records.save()
    return path


def tuning_for(
    target: Target,
    runtime: str,
    profiles_dir: Path | None,
    *,
    budget_sec: float = 0.0,
    seed: int = 0,
    board: BoardRoute | None = None,
) -> Tuning | None:
    """With the target's records; None where the runtime has nothing to tune for it."""
    if not load_backend(runtime).TRAITS.is_tunable(target):
        return None
    return Tuning(records_path(target, profiles_dir), budget_sec, seed, board)


def identity_of(
    target: Target, runtime: str, space: SearchSpace, batch: int = 1, precision: str = "fp32"
) -> TableIdentity:
    """Raises InvalidValueError for a batch below 1 or a precision that the target does not compute in."""
    target.require_precision(precision)
    return TableIdentity(target.name, runtime, target.num_threads, batch, precision, space.family)


def few_shot_path(path: Path) -> Path:
    """Beside the table of all layers, which it never replaces."""
    return path.with_name(f"{path.stem}.{FEW_SHOT}.json")


def _file_name(target: Target, identity: TableIdentity, is_remote: bool) -> str:
    # A target of this machine that is measured elsewhere (a copy of it, the agent on loopback) is another device.
    where = "-rpc" if is_remote and target.connection == "local" else ""
    return (
        f"{identity.runtime}-{slug(identity.space)}-t{identity.num_threads}-b{identity.batch}-{identity.precision}"
        f"{where}.json"
    )


def find_table(
    target: Target,
    identity: TableIdentity,
    profiles_dir: Path | None,
    *,
    machine: str | None = None,
    is_remote: bool = False,
) -> LatencyTable | None:
    """The first valid one; a table that does not fit is passed over and named in the log.

    ``machine`` is the fingerprint of the device where it is known; a target of this machine must have its.
    """
    is_here = target.connection == "local" and not is_remote
    version = load_backend(identity.runtime).version() if is_here else None
    machine = fingerprint(identity.runtime, version or "") if is_here else machine
    version = None if version is None else with_code_version(identity.runtime, version)
    for path in _candidates(target, _file_name(target, identity, is_remote), profiles_dir):
        try:
            table = load_table(path)
            check_matches(table, **vars(identity), runtime_version=version)
        except RunFolderError as error:
            _log.warning("%s is not used: %s", path, error)
            continue
        if table.runtime_version is not None and with_code_version(identity.runtime, "") not in table.runtime_version:
            _log.warning("%s is not used: it was measured with other code than this version's", path)
            continue
        if machine is not None and table.conditions.get("fingerprint") != machine:
            # Tables that ship are of one machine, and that it is not this one is nothing to warn of.
            level = logging.INFO if path.is_relative_to(package_folder("profiles")) else logging.WARNING
            _log.log(level, "%s is not used: it was measured on another machine", path)
            continue
        return table
    return None


def _candidates(target: Target, name: str, profiles_dir: Path | None) -> Iterator[Path]:
    """Existing files, the user's first; in each folder the table of all layers before the few-shot one."""
    for folder in dict.fromkeys([table_folder(profiles_dir), *profile_folders(profiles_dir)]):
        path = folder / target.name / name
        yield from (candidate for candidate in (path, few_shot_path(path)) if candidate.is_file())
