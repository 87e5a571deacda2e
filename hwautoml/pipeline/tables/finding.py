"""Which latency table a target, runtime and space have: found where a valid one exists, measured where not."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from hwautoml.compilers import load_backend
from hwautoml.core.latency_file import check_matches
from hwautoml.core.latency_file import load as load_table
from hwautoml.core.latency_file import save as save_table
from hwautoml.core.latency_prior import roofline_table
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.progress import OnProgress, Progress, silent
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
from hwautoml.profilers.journal import wait_while_held
from hwautoml.schedules.records import Records

__all__ = [
    "device_for",
    "ensure_table",
    "find_table",
    "save_table",
    "unavailable_reason",
    "usable_runtimes",
]

_PATIENCE = 2.0  # times one's own budget: the other's may be larger
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
    device: str | None = None,
    tracker: str | None = None,
    key: str | None = None,
    seed: int = 0,
    profiles_dir: Path | None = None,
    on_progress: OnProgress = silent,
) -> LatencyTable:
    """A valid table from a file; else measured here; else, with no access to the device, estimated.

    ``device``, ``tracker`` and ``key`` are those of ``device_for``.
    """
    reason = unavailable_reason(target, device=device, tracker=tracker)
    is_remote = device is not None or tracker is not None
    identity = identity_of(target, runtime, space, batch, precision)
    way = (
        device_for(target, runtime, device=device, tracker=tracker, key=key, all_boards=True)
        if reason is None
        else nullcontext()
    )
    with way as opened:
        machine = None if opened is None or not is_remote else str(opened.conditions()["fingerprint"])
        table = find_table(target, identity, profiles_dir, machine=machine, is_remote=is_remote)
        if table is not None and not (opened is not None and _is_worth_more_time(table, budget_sec)):
            return table
        if opened is None:
            _log.warning("%s cannot be measured from here: its latencies are estimated from the datasheet", target.name)
            return estimated_table(target, space, identity)
        path = table_path(target, runtime, space, profiles_dir, batch=batch, precision=precision, is_remote=is_remote)
        if _others_have_measured(path, budget_sec, on_progress):
            table = find_table(target, identity, profiles_dir, machine=machine, is_remote=is_remote)
            if table is not None:
                return table
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


def _others_have_measured(path: Path, budget_sec: float, on_progress: OnProgress) -> bool:
    """Whether another process was at work on the table at ``path`` and is done: two would disturb each other."""

    def tell(owner: str) -> None:
        on_progress(Progress("profile", 0.0, f"process {owner} measures this table already: waiting for it"))

    return wait_while_held(path.with_suffix(".lock"), _PATIENCE * budget_sec, tell)


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
    from hwautoml.compilers import backend_names

    return tuple(r for r in target.runtimes if r in backend_names() and load_backend(r).unavailable_reason() is None)


def choose_runtime(target: Target, wanted: str) -> str:
    """``auto`` is the target's first usable one.

    Raises:
        MissingDependencyError: it is not installed.
    """
    usable = usable_runtimes(target)
    if wanted != "auto" and wanted not in target.runtimes:
        raise UnknownNameError(f"runtime of target {target.name}", wanted, target.runtimes)
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
