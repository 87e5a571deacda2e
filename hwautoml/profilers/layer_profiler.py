"""Fill a latency table: micro-benchmarks of layers, then whole networks, within time budgets."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

import numpy as np

from hwautoml.core.active_selection import choose_to_measure
from hwautoml.core.latency_file import save
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.layer import Layer
from hwautoml.core.measurement import Measurement
from hwautoml.core.space import Architecture, SearchSpace
from hwautoml.core.temporary import temporary_folder
from hwautoml.errors import HwAutoMLError, MeasurementError, StorageError
from hwautoml.profilers.assembly import (
    ProfileSetting,
    assemble_from_prior,
    assemble_table,
    checked_by_leaving_out,
    is_usable,
)
from hwautoml.profilers.disturbance import Line, disturbed, items
from hwautoml.profilers.journal import Journal, exclusive_lock
from hwautoml.profilers.profile_options import ProfileOptions
from hwautoml.profilers.reference import reference_architecture

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]
Job = tuple[str, dict[str, Any], Callable[[Path], Path]]  # its name, the journal line's fields, what builds the file
_LAYERS_PER_CALL = 16  # what a crash of this process can lose
_NETWORKS_PER_CALL = 8
_POOL_SIZE = 512  # random architectures among which the ones to measure are chosen
_ITEM_FIELDS = ("key", "architecture_id", "counts", "is_holdout", "predicted_ms", "predicted_std_ms")


class Failure(Protocol):
    """What ``measure`` returns for a model that could not be measured."""

    @property
    def reason(self) -> str: ...


class Measure(Protocol):
    """``LocalDevice.measure`` or its like; results in the order of ``paths``."""

    def __call__(self, paths: Sequence[Path], reference: Path | None = None) -> Sequence[Measurement | Failure]: ...


@dataclass(frozen=True)
class Builders:
    """Make files that the runtime opens, with random weights; each returns the path it wrote.

    ``overhead`` builds a network that does next to nothing; without it the overhead is guessed
    from the fastest layer. ``num_parallel`` threads may call at once. ``reads_weights``: the runtime reads, and
    converts, a layer's weights at every run instead of packing them once.
    """

    layer: Callable[[Layer, Path], Path]
    network: Callable[[Architecture, Path], Path]
    overhead: Callable[[Path], Path] | None = None
    num_parallel: int = 1
    reads_weights: bool = False


def profile_layers(
    space: SearchSpace,
    setting: ProfileSetting,
    table_path: Path,
    *,
    builders: Builders,
    measure: Measure,
    measure_networks: Measure | None = None,
    prior: LatencyTable | None = None,
    options: ProfileOptions | None = None,
    on_progress: Progress | None = None,
) -> LatencyTable:
    """Measure, and write the table to ``table_path``.

    Beside it lie the journal (``.journal.jsonl``), from which an interrupted profile goes on
    without repeating what it got (what was too noisy is tried again), and a lock. Running again
    with a larger budget or more networks adds to what is there. ``measure_networks``, by default
    ``measure``, may spend more on each model: there are fewer of them, and they decide the level.

    With a ``prior`` (of sibling devices, or from a datasheet) no layer is measured, only the networks that tell
    most about the device, each once; which prior it was is no part of the journal, as a measured network stays true.

    Raises:
        RunFolderError: another process profiles into this table, or the journal is damaged.
        MeasurementError: no layer could be measured; with a prior, no network.
    """
    with exclusive_lock(table_path.with_suffix(".lock")), temporary_folder() as folder:
        journal = Journal(table_path.with_suffix(".journal.jsonl"), setting.to_json())
        options = options or ProfileOptions()
        measures = (measure, measure_networks or measure)
        run = _Profile(space, setting, journal, builders, measures, prior, options, on_progress, folder)
        if prior is None:
            run.measure_layers(options.layer_budget_sec)
        run.measure_networks()
        if prior is None:
            run.measure_remaining_layers()
            run.measure_disturbed()
        table = run.table() if prior is None else checked_by_leaving_out(run.table(), prior)
        save(table, table_path)
    return table


class _Profile:
    """One run; all state that matters is in the journal."""

    def __init__(
        self,
        space: SearchSpace,
        setting: ProfileSetting,
        journal: Journal,
        builders: Builders,
        measures: tuple[Measure, Measure],
        prior: LatencyTable | None,
        options: ProfileOptions,
        on_progress: Progress | None,
        folder: Path,
    ) -> None:
        self._space, self._setting, self._journal = space, setting, journal
        self._builders, self._prior, self._options = builders, prior, options
        self._measure, self._measure_networks = measures
        self._on_progress, self._folder = on_progress, folder
        self._layers = {setting.identity.key(layer): layer for layer in space.all_layers()}
        self._reference: Path | None = None
        self._num_earlier = len(journal.records)
        self._began = monotonic()
        self._measuring_sec = 0.0  # of the last call: building has to stop that much earlier

    def table(self) -> LatencyTable:
        if self._prior is not None:
            return assemble_from_prior(self._setting, self._journal, self._prior, self._options.max_relative_deviation)
        costs = {key: self._space.cost(layer) for key, layer in self._layers.items()}
        return assemble_table(
            self._setting,
            self._journal,
            costs,
            self._options.max_relative_deviation,
            reads_weights=self._builders.reads_weights,
        )

    def measure_layers(self, budget_sec: float) -> None:
        done = {line["key"] for line in self._usable("layer")}
        if done:  # if all failed, it was the set-up, and they deserve another try
            done |= {line["key"] for line in self._journal.of("layer") if "failure" in line}
        todo = [key for key in coverage_order(self._layers, self._options.seed) if key not in done]
        if self._builders.overhead is not None and not self._usable("overhead"):
            self._measure_chunk("overhead", [("overhead", {}, self._builders.overhead)], monotonic())
        for chunk in _chunks(todo, _LAYERS_PER_CALL):
            until = monotonic() + budget_sec - self._spent_sec("layer", "overhead")
            if monotonic() > until and self._usable("layer"):  # a table needs at least one
                logger.info("layer budget is spent; the remaining layers are inferred")
                break
            jobs = [(key, {"key": key}, self._layer_builder(key)) for key in chunk]
            self._measure_chunk("layer", jobs, monotonic(), until)
            self._report("layers")
            lines = self._journal.of("layer")
            if all("failure" in line for line in lines):
                reason = lines[-1]["failure"]
                raise MeasurementError(f"none of the first {len(lines)} layers could be measured: {reason}")

    def measure_networks(self) -> None:
        pool = self._pool()
        for is_holdout in (False, True):
            chosen: list[Architecture] = []
            num_in_vain = 0
            while True:
                start = monotonic()
                until = start + self._left_sec() - (0.0 if is_holdout else self._holdout_sec())
                if start > until:
                    logger.info("network budget is spent")
                    break
                if not chosen:
                    table = self.table()
                    chosen = self._next_networks(pool, table, is_holdout)
                if not chosen:
                    break
                now, chosen = chosen[:_NETWORKS_PER_CALL], chosen[_NETWORKS_PER_CALL:]
                jobs = [self._network_job(architecture, table, is_holdout) for architecture in now]
                num_before = len(self._usable("network"))
                self._measure_chunk("network", jobs, start, until)
                self._report("networks")
                num_in_vain = num_in_vain + len(jobs) if len(self._usable("network")) == num_before else 0
                if num_in_vain and self._prior is not None:
                    raise MeasurementError(f"none of {len(jobs)} networks could be measured{self._last_failure()}")
                if num_in_vain >= _NETWORKS_PER_CALL:  # fewer may have been bad luck
                    logger.warning("none of the last %d networks could be measured; no more are tried", num_in_vain)
                    return

    def _network_job(self, architecture: Architecture, table: LatencyTable, is_holdout: bool) -> Job:
        layers = self._space.layers(architecture)
        estimate = table.predict(layers)
        fields = {
            "architecture_id": architecture.id,
            "counts": dict(table.counts(layers)),
            "is_holdout": is_holdout,
            "predicted_ms": estimate.mean_ms,
            "predicted_std_ms": estimate.std_ms,
        }
        return architecture.id, fields, lambda path: self._builders.network(architecture, path)

    def measure_remaining_layers(self) -> None:
        """With what is left of the whole budget once all networks that were wanted are measured."""
        if len(self._usable("network")) >= self._options.num_networks:
            self.measure_layers(self._spent_sec("layer", "overhead") + max(self._spare_sec(), 0.0))

    def measure_disturbed(self) -> None:
        """Measure again what a busy machine disturbed, most disturbed first, while there is time."""
        networks = {architecture.id: architecture for architecture in self._pool()}
        while (spare_sec := self._spare_sec()) > 0:
            records = [line for line in self._journal.records if "conditions" in line]
            lines = [
                line
                for line in disturbed(records, self._options.max_disturbance, self._options.max_scatter)
                if line["record"] != "network" or line["architecture_id"] in networks
            ]
            lines = [line for line in lines if line["record"] == lines[0]["record"]][:_LAYERS_PER_CALL]
            if not lines:
                return
            jobs = [self._again(line, networks) for line in lines]
            self._measure_chunk(lines[0]["record"], jobs, monotonic(), monotonic() + spare_sec)
            self._report("disturbed ones again")

    def _again(self, line: Line, networks: Mapping[str, Architecture]) -> Job:
        """What was predicted before the first time stays the prediction."""
        fields = {name: line[name] for name in _ITEM_FIELDS if name in line}
        if line["record"] == "overhead":
            assert self._builders.overhead is not None  # it was measured
            return "overhead", fields, self._builders.overhead
        if line["record"] == "layer":
            return line["key"], fields, self._layer_builder(line["key"])
        architecture = networks[line["architecture_id"]]
        return architecture.id, fields, lambda path: self._builders.network(architecture, path)

    def _spare_sec(self) -> float:
        """What this run spent on starting and fitting is subtracted, twice, because the last fit is to come."""
        measuring = sum(line.get("seconds", 0.0) for line in self._journal.records[self._num_earlier :])
        around = monotonic() - self._began - measuring
        return self._left_sec() - 2 * around

    def _left_sec(self) -> float:
        """Of both budgets together, so that networks may use what layers left."""
        budget_sec = self._options.layer_budget_sec + self._options.network_budget_sec
        return budget_sec - self._spent_sec("layer", "overhead", "network")

    def _holdout_sec(self) -> float:
        """What the hold-out networks will take, by those measured so far: the others leave them that much."""
        seconds = [line["seconds"] for line in self._usable("network")]
        wanted = self._options.num_holdout - sum(line["is_holdout"] for line in self._usable("network"))
        return wanted * float(np.mean(seconds)) if seconds else 0.0

    def _pool(self) -> list[Architecture]:
        rng = np.random.default_rng(self._options.seed)
        drawn = [self._space.sample(rng) for _ in range(max(_POOL_SIZE, 2 * self._options.num_networks))]
        return list({architecture.id: architecture for architecture in drawn}.values())

    def _next_networks(self, pool: list[Architecture], table: LatencyTable, is_holdout: bool) -> list[Architecture]:
        """Those that teach the table most; for the hold-out, any.

        A quarter as many as are known: fitting after every call would soon take longer than measuring.
        """
        tried = {line["architecture_id"] for line in self._journal.of("network")}
        options, known = self._options, self._usable("network")
        wanted = options.num_holdout if is_holdout else options.num_networks - options.num_holdout
        wanted -= sum(line["is_holdout"] == is_holdout for line in known)
        free = [architecture for architecture in pool if architecture.id not in tried]
        if is_holdout:
            return free[: max(wanted, 0)]
        num = max(min(wanted, max(len(known) // 4, _NETWORKS_PER_CALL), len(free)), 0)
        layers = [self._space.layers(architecture) for architecture in free]
        return [free[index] for index in choose_to_measure(table, layers, num)]

    def _layer_builder(self, key: str) -> Callable[[Path], Path]:
        return lambda path: self._builders.layer(self._layers[key], path)

    def _measure_chunk(self, record: str, jobs: list[Job], start: float, until: float = math.inf) -> None:
        """Build, measure, and write one journal line per job; what began at ``start`` is shared among them.

        Jobs whose turn to be built would come after ``until`` are left out, the first excepted.
        """
        if self._reference is None:
            self._reference = self._builders.network(reference_architecture(self._space), self._folder / "reference")
        measure = self._measure_networks if record == "network" else self._measure
        built, lines = {}, {}
        for (name, fields, _), made in zip(jobs, self._build(record, jobs, until), strict=True):
            if made is not None:
                lines[name] = {"record": record, **fields}
            if isinstance(made, Path):
                built[name] = made
            elif made is not None:
                lines[name]["failure"] = made.message
        built_at = monotonic()
        results = measure(list(built.values()), self._reference) if built else []
        self._measuring_sec = monotonic() - built_at
        for name, result in zip(built, results, strict=True):
            lines[name] |= _result_fields(result)
        seconds = (monotonic() - start) / len(lines)
        for name, line in lines.items():
            if "failure" in line:
                logger.warning("%s failed: %s", name, line["failure"])
            self._journal.append(line | {"seconds": round(seconds, 4)})

    def _build(self, record: str, jobs: list[Job], until: float) -> list[Path | HwAutoMLError | None]:
        """The file, or why there is none, or None for a job that was left out."""

        def build(number: int) -> Path | HwAutoMLError | None:
            if number and monotonic() + self._measuring_sec > until:
                return None
            try:
                return jobs[number][2](self._folder / f"{record}{number}")
            except StorageError:
                raise
            except HwAutoMLError as error:
                return error

        threads = ThreadPoolExecutor(self._builders.num_parallel)
        try:
            return list(threads.map(build, range(len(jobs))))
        finally:
            threads.shutdown(cancel_futures=True)  # Ctrl-C waits for what is being built, not for the rest

    def _usable(self, record: str) -> list[Line]:
        lines = self._journal.of(record)
        return items([line for line in lines if is_usable(line, self._options.max_relative_deviation)])

    def _spent_sec(self, *records: str) -> float:
        """Of this run, and of what earlier ones got out of theirs: a failed run must not use up the next one's."""
        earlier, now = self._journal.records[: self._num_earlier], self._journal.records[self._num_earlier :]
        useful = [line for line in earlier if is_usable(line, self._options.max_relative_deviation)]
        return float(sum(line["seconds"] for line in useful + now if line["record"] in records))

    def _last_failure(self) -> str:
        failures = [line["failure"] for line in self._journal.of("network") if "failure" in line]
        return f": {failures[-1]}" if failures else " quietly enough"

    def _report(self, text: str) -> None:
        if self._on_progress is not None:
            num_done = len(items(self._journal.of("layer"))) + len(items(self._journal.of("network")))
            num_layers = len(self._layers) if self._prior is None else 0
            self._on_progress(num_done, num_layers + self._options.num_networks, text)


def coverage_order(layers: dict[str, Layer], seed: int) -> list[str]:
    """Keys so that every prefix covers kinds and map sizes evenly: one of each group in turn, at random within."""
    shuffled = np.random.default_rng(seed).permutation(len(layers))
    keys = [list(layers)[index] for index in shuffled]
    groups: dict[tuple[str, int], list[str]] = {}
    for key in keys:
        groups.setdefault((layers[key].kind, layers[key].height), []).append(key)
    ranked = sorted(
        ((rank, group, key) for group, members in groups.items() for rank, key in enumerate(members)),
        key=lambda item: item[:2],
    )
    return [key for _, _, key in ranked]


def _result_fields(result: Measurement | Failure) -> dict[str, Any]:
    if not isinstance(result, Measurement):
        return {"failure": result.reason}
    return {
        "median_ms": result.median_ms,
        "deviation_ms": result.deviation_ms,
        "samples_ms": [float(f"{sample:.5g}") for sample in result.samples_ms],
        "conditions": dict(result.conditions),
    }


def _chunks(items: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (items[start : start + size] for start in range(0, len(items), size))
