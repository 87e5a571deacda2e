"""Measure a latency table on an opened device: every layer, or the few networks that correct a prior."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic

from hwautoml.compilers import all_traits
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.progress import OnProgress, Progress, silent
from hwautoml.core.space import SearchSpace
from hwautoml.core.table_identity import TableIdentity
from hwautoml.core.target import Target
from hwautoml.devices.base import Device
from hwautoml.devices.protocol import MeasureProtocol
from hwautoml.errors import RunFolderError
from hwautoml.pipeline.connecting import require_real
from hwautoml.pipeline.tables.probes import probe_builders
from hwautoml.pipeline.tables.reading import load_table
from hwautoml.profilers.assembly import ProfileSetting
from hwautoml.profilers.journal import free_name
from hwautoml.profilers.layer_profiler import profile_layers
from hwautoml.profilers.profile_options import ProfileOptions


def measure_table(
    space: SearchSpace,
    target: Target,
    identity: TableIdentity,
    path: Path,
    device: Device,
    *,
    records: Path,
    budget_sec: float,
    prior: LatencyTable | None = None,
    num_networks: int = 0,
    seed: int = 0,
    on_progress: OnProgress = silent,
) -> LatencyTable:
    """Into ``path``, resumable from the journal beside it; ``records`` are TVM's tuning records.

    Without a ``prior`` layers and networks are measured within the budget, the last networks as a check; with one
    only ``num_networks`` networks, or as many as the budget allows.

    Raises:
        RunFolderError: the file at ``path`` is damaged (it stays as it is), or another process is profiling into it.
        MeasurementError: nothing could be measured, or the device is emulated.
    """
    conditions = device.conditions()
    require_real(conditions)
    version = with_code_version(identity.runtime, str(conditions["runtime_version"]))
    machine = str(conditions["fingerprint"])
    if prior is not None:
        require_no_less(path, prior)
    _set_other_aside(path, identity, version, machine)
    setting = ProfileSetting(identity, version, machine)
    options = ProfileOptions.within(budget_sec, seed=seed)
    if prior is not None:
        options = replace(options, num_networks=num_networks, num_holdout=0)
    quick, full = MeasureProtocol.for_layers(seed), MeasureProtocol(seed=seed)
    builders = probe_builders(
        space,
        target,
        identity.runtime,
        records,
        precision=identity.precision,
        batch=identity.batch,
        num_threads=identity.num_threads,
    )
    return profile_layers(
        space,
        setting,
        path,
        builders=builders,
        prior=prior,
        options=options,
        on_progress=partial(_listen, on_progress, monotonic(), budget_sec),
        measure=lambda paths, reference=None: device.measure(paths, reference, quick),
        measure_networks=lambda paths, reference=None: device.measure(paths, reference, full),
    )


def with_code_version(runtime: str, runtime_version: str) -> str:
    """What a table says its runtime's version is: TVM and torch run code that is ours, and that has a version too."""
    traits = all_traits().get(runtime)  # tables that were made elsewhere may be of a runtime that is not known here
    return runtime_version + ("" if traits is None else traits.code_version)


def require_no_less(path: Path, table: LatencyTable) -> None:
    """Raises RunFolderError where ``path`` is damaged, or holds measured layers and ``table`` has none."""
    if path.is_file() and _num_measured(load_table(path)) and not _num_measured(table):
        raise RunFolderError(f"{path} holds measured layers and is not replaced by a table without", fix="--out FILE")


def _num_measured(table: LatencyTable) -> int:
    return sum(entry.origin == "measured" for entry in table.entries.values())


def _set_other_aside(path: Path, identity: TableIdentity, version: str, machine: str) -> None:
    """A table of another kind, runtime version or machine is set aside; a damaged one is an error, and stays."""
    if not path.is_file():
        return
    found = load_table(path)
    conditions = (found.runtime_version, found.conditions.get("fingerprint"))
    if found.identity != identity or conditions != (version, machine):
        path.replace(free_name(path))


def _listen(on_progress: OnProgress, began: float, budget_sec: float, done: int, total: int, text: str) -> None:
    """Done when everything is measured or time is over, whichever comes first."""
    share = max(done / total, (monotonic() - began) / budget_sec)
    on_progress(Progress("profile", min(share, 0.999), f"{text}: {done} of at most {total} measured"))
