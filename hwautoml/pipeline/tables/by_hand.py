"""Few-shot without a connection: networks to run on the device by hand, and the table from what was read off."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from hwautoml.compilers import all_traits
from hwautoml.core import json_form
from hwautoml.core.active_selection import choose_to_measure
from hwautoml.core.artifact import sha256_file
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.measurement import Measurement
from hwautoml.core.observation import Observation
from hwautoml.core.space import Architecture, SearchSpace
from hwautoml.core.storage import write_atomically
from hwautoml.core.table_identity import TableIdentity
from hwautoml.errors import InvalidValueError, RunFolderError
from hwautoml.pipeline.tables.probes import deployable_probe
from hwautoml.pipeline.tables.reading import identity_flags
from hwautoml.pipeline.tables.wanted import WantedTable
from hwautoml.profilers.assembly import checked_by_leaving_out, table_from_prior
from hwautoml.profilers.hand_measurements import read_measurements, template
from hwautoml.store.files import read_json, write_json

CSV_FILE, LIST_FILE, README_FILE = "measurements.csv", "networks.json", "README.md"
_SCHEMA = "networks-by-hand/v1"
_POOL_SIZE = 256  # random architectures among which the ones to measure are chosen


@dataclass(frozen=True)
class NetworksToTime:
    """What was written for a person to measure: ``csv`` is to be filled in, ``next`` the command that reads it back.

    ``networks`` are file names within ``folder``.
    """

    folder: Path
    csv: Path
    num_networks: int
    networks: tuple[str, ...]
    target: str
    space: str
    next: str

    def to_json(self) -> dict[str, Any]:
        return json_form.to_json(self)


def write_networks(
    wanted: WantedTable,
    prior: LatencyTable,
    number: int,
    folder: Path,
    *,
    flags: Mapping[str, object],
    seed: int,
) -> NetworksToTime:
    """The ``number`` networks that tell most about the device, as ONNX, with a CSV to fill in and a README.

    ``flags`` are those that reading back needs besides the identity, such as ``--like``; empty ones are left out.

    Raises:
        RunFolderError: the folder holds latencies that were filled in; nothing is overwritten.
    """
    space, identity, csv_path = wanted.space, wanted.identity, folder / CSV_FILE
    _require_empty(csv_path)
    rng = np.random.default_rng(seed)
    pool = list({a.id: a for a in (space.sample(rng) for _ in range(max(_POOL_SIZE, 2 * number)))}.values())
    if number > len(pool):
        raise InvalidValueError(f"measurements: must be at most {len(pool)} in {space.family}, got {number}")
    chosen = [pool[index] for index in choose_to_measure(prior, [space.layers(a) for a in pool], number)]
    files = {a.id: f"networks/{a.id}.onnx" for a in chosen}
    for architecture in chosen:
        path = folder / files[architecture.id]  # ONNX is what any runtime takes, whichever will run it
        deployable_probe(space, architecture, path, batch=identity.batch, precision=identity.precision)
    architectures = {a.id: a.as_dict for a in chosen}
    write_json(folder / LIST_FILE, {"schema": _SCHEMA, **identity.to_json(), "architectures": architectures})
    write_atomically(csv_path, template(files))
    command = _command(identity, csv_path, flags)
    traits = all_traits().get(identity.runtime)  # None: whoever measures knows how to run ONNX files on it
    is_compiled = traits is not None and not traits.opens_source(wanted.target)
    write_atomically(folder / README_FILE, _readme(identity, space, chosen, command, is_compiled))
    return NetworksToTime(
        folder, csv_path, number, tuple(files.values()), identity.target, identity.space, next=command
    )


def table_from_csv(prior: LatencyTable, space: SearchSpace, identity: TableIdentity, path: Path) -> LatencyTable:
    """``prior`` corrected by the latencies in ``path``, beside which lies the list of networks it belongs to.

    Raises:
        RunFolderError: a file is missing or damaged, was exported for another table, or has wrong rows.
    """
    architectures = _listed(path.parent / LIST_FILE, space, identity)
    samples = read_measurements(path, {name: f"networks/{name}.onnx" for name in architectures})
    observations = []
    for name, architecture in architectures.items():
        measured = Measurement(samples[name])
        counts = prior.counts(space.layers(architecture))
        observations.append(Observation(name, counts, measured.median_ms, measured.deviation_ms, "by hand"))
    table = checked_by_leaving_out(table_from_prior(prior, observations), prior)
    conditions = {
        "source": "latencies measured by hand",
        "csv_sha256": sha256_file(path),
        "num_layers_measured": 0,
        "num_samples": sum(map(len, samples.values())),
        "date": datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds"),
    }
    return replace(table, conditions={**table.conditions, **conditions})


def _require_empty(csv_path: Path) -> None:
    if not csv_path.is_file():
        return
    lines = csv_path.read_text(encoding="utf-8-sig", errors="replace").splitlines()[1:]
    if any(line.rpartition(",")[2].strip() for line in lines):
        raise RunFolderError(
            f"{csv_path} holds latencies and is not overwritten",
            fix=f"another folder, or: hwautoml tables import {csv_path}",
        )


def _listed(path: Path, space: SearchSpace, identity: TableIdentity) -> dict[str, Architecture]:
    """By id, as exported."""
    found = read_json(path)
    try:
        if found["schema"] != _SCHEMA:
            raise RunFolderError(
                f"{path} has schema {found['schema']!r}, this version reads {_SCHEMA!r}",
                fix="export the networks again: hwautoml tables export FOLDER",
            )
        exported = TableIdentity.from_json(found)
        architectures = {str(name): space.architecture(values) for name, values in found["architectures"].items()}
    except (InvalidValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(f"{path} is damaged: {error}", fix="export anew into another folder") from error
    differences = exported.differences(identity)
    if differences:
        raise RunFolderError(
            f"the networks of {path.parent} were exported for another table: {'; '.join(differences)}",
            fix=_command(exported, path.parent / CSV_FILE, {}),
        )
    wrong = [name for name, architecture in architectures.items() if architecture.id != name]
    if wrong:
        raise RunFolderError(f"{path} is damaged: {wrong[0]} is not what its values say")
    return architectures


def _command(identity: TableIdentity, csv_path: Path, flags: Mapping[str, object]) -> str:
    more = [f"{flag} {shlex.quote(str(value))}" for flag, value in flags.items() if value]
    return " ".join(["hwautoml tables import", shlex.quote(str(csv_path)), identity_flags(identity), *more])


def _readme(
    identity: TableIdentity, space: SearchSpace, chosen: Sequence[Architecture], command: str, is_compiled: bool
) -> str:
    sides = sorted({space.resolution(architecture) for architecture in chosen})
    threads = "1 thread" if identity.num_threads == 1 else f"{identity.num_threads} threads"
    compiled = (
        f"\n   Compile them first: `hwautoml compile networks/ID.onnx --target {identity.target} "
        f"--runtime {identity.runtime}`."
        if is_compiled
        else ""
    )
    shapes = " or ".join(f"({identity.batch}, {side}, {side}, {space.channels})" for side in sides)
    return f"""# {len(chosen)} networks to time on {identity.target}

They were chosen because together they tell most about what a network of `{identity.space}` costs there. Their
weights are random: latency does not depend on them.

1. Run each file of `networks/` with **{identity.runtime}**, {threads}, {identity.precision}.{compiled}
   Input: uint8 images {shapes}, batch {identity.batch}; any values.
2. Warm up (50 runs), then time at least 50 more and take the **median of one inference of the whole batch,
   in milliseconds**. Go over all networks in turn, and repeat that two or three times, rather than finish one after
   the other: the device warms up and slows down, and every network should have its share of it.
3. Write the medians into `{CSV_FILE}`, several for one network separated by spaces: `1.53 1.49 1.51`.
4. Bring the folder back (`{LIST_FILE}` belongs to the CSV) and run

```
{command}
```
"""
