"""A latency table: what each layer costs on a target, how sure that is, and where it comes from.

latency(network) = overhead + sum of its layers' times + residual; see ``latency_model`` for
the maths. Files are read and written by ``latency_file``, entries that were not measured
come from ``latency_prior``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hwautoml.core import few_shot
from hwautoml.core import latency_model as model
from hwautoml.core.active_selection import Criterion, choose_rows
from hwautoml.core.form import Form
from hwautoml.core.latency_model import Hyperparameters
from hwautoml.core.layer import Layer
from hwautoml.core.learned_prior import LearnedPrior
from hwautoml.errors import InvalidValueError

SCHEMA = "latency-table/v1"
EntryOrigin = Literal["measured", "inferred", "estimated"]
ENTRY_ORIGINS = ("measured", "inferred", "estimated")
_CHUNK = 512  # rows of a dense (rows, entries) count matrix at a time


@dataclass(frozen=True)
class Estimate:
    """A predicted latency. ``std_ms`` includes what repeating the measurement would show.

    ``unmeasured`` names the layers that were measured neither alone nor in any network: their entries are
    inferred or estimated, and ``std_ms`` is wider for it.
    """

    mean_ms: float
    std_ms: float
    unmeasured: tuple[str, ...] = ()

    @property
    def interval_ms(self) -> tuple[float, float]:
        """95 %; the lower bound stays positive."""
        return max(self.mean_ms - 1.96 * self.std_ms, 1e-3 * self.mean_ms), self.mean_ms + 1.96 * self.std_ms


@dataclass(frozen=True)
class Entry:
    """Time of one layer (or of the overhead) and its standard deviation.

    Origins: "measured" by a micro-benchmark on this target, "inferred" from measured entries (by regression
    from this target's, or from other devices'), "estimated" from the datasheet. ``num_weights`` is how many weights of
    the layer every run reads anew; 0 where the runtime packs them when it opens a model.
    """

    mean_ms: float
    deviation_ms: float
    origin: EntryOrigin = "measured"
    num_weights: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean_ms) and self.mean_ms > 0):
            raise InvalidValueError(f"an entry's mean_ms must be positive and finite, got {self.mean_ms!r}")
        if not (math.isfinite(self.deviation_ms) and self.deviation_ms >= 0):
            raise InvalidValueError(f"an entry's deviation_ms must be finite and >= 0, got {self.deviation_ms!r}")
        if self.origin not in ENTRY_ORIGINS:
            raise InvalidValueError(f"an entry's origin must be one of {ENTRY_ORIGINS}, got {self.origin!r}")
        if type(self.num_weights) is not int or self.num_weights < 0:
            raise InvalidValueError(f"an entry's num_weights must be a count, got {self.num_weights!r}")


@dataclass(frozen=True)
class Observation:
    """A whole network, measured: how often it contains each layer key, and its latency.

    ``session`` names the measuring call (its date, say): results of the same one share its level; "" is one of its own.
    """

    architecture_id: str
    counts: tuple[tuple[str, int], ...]
    measured_ms: float
    deviation_ms: float = 0.0
    session: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.measured_ms) and self.measured_ms > 0):
            raise InvalidValueError(f"measured_ms must be positive and finite, got {self.measured_ms!r}")
        if not (math.isfinite(self.deviation_ms) and self.deviation_ms >= 0):
            raise InvalidValueError(f"deviation_ms must be finite and >= 0, got {self.deviation_ms!r}")
        if any(not key or count < 1 for key, count in self.counts):
            raise InvalidValueError(f"counts need a layer key and a positive count each, got {self.counts!r}")


@dataclass(frozen=True)
class _Column:
    """Where a layer key sits in the design matrix; ``scale`` and ``doubt_ms`` differ from 1 and 0 if inferred."""

    index: int
    scale: float = 1.0
    doubt_ms: float = 0.0


@dataclass(frozen=True)
class LatencyTable:
    """Latencies of one family of spaces on one target, runtime, thread count, batch and precision.

    ``space`` is the family (``mobile/v1/32x32x3``), which leaves the number of classes open.
    With a ``learned`` prior (few-shot, from siblings) predictions come from that, and the entries are for people.
    Layers are looked up by shape; precision and batch are the table's, whatever the layer says.
    """

    target: str
    runtime: str
    num_threads: int
    batch: int
    precision: str
    space: str
    entries: Mapping[str, Entry]
    overhead: Entry
    observations: tuple[Observation, ...] = ()
    hyperparameters: Hyperparameters | None = None
    conditions: Mapping[str, object] = field(default_factory=dict)
    learned: LearnedPrior | None = None
    schema: str = SCHEMA

    @property
    def form(self) -> str:
        """In what form networks run: the runtime, and the precision unless it is fp32 (``tvm-int8``)."""
        return Form(self.runtime, self.precision).name

    @property
    def origin(self) -> Literal["measured", "estimated"]:
        """ "measured" as soon as anything was measured on the target."""
        is_measured = self.observations or any(entry.origin == "measured" for entry in self.entries.values())
        return "measured" if is_measured else "estimated"

    @property
    def runtime_version(self) -> str | None:
        version = self.conditions.get("runtime_version")
        return None if version is None else str(version)

    def key(self, layer: Layer) -> str:
        """The layer's key at this table's precision and batch."""
        if layer.precision == self.precision and layer.batch == self.batch:
            return layer.key
        return replace(layer, precision=self.precision, batch=self.batch).key

    def counts(self, layers: Sequence[Layer]) -> tuple[tuple[str, int], ...]:
        """What ``Observation.counts`` takes, sorted by key."""
        return tuple(sorted(Counter(self.key(layer) for layer in layers).items()))

    def missing(self, layers: Sequence[Layer]) -> tuple[str, ...]:
        """Sorted keys of the layers that this table can say nothing about."""
        return tuple(sorted({key for key in map(self.key, layers) if self._find(key) is None}))

    def unmeasured(self, layers: Sequence[Layer]) -> tuple[str, ...]:
        """Sorted keys of the layers that no measurement has seen, alone or within a network."""
        return tuple(sorted({key for key in map(self.key, layers) if key not in self._seen}))

    def check_keys(self, keys: Iterable[str]) -> None:
        """Raises InvalidValueError naming the first key that has no entry and that no rule infers."""
        for key in keys:
            self._column(key)

    def predict(self, layers: Sequence[Layer]) -> Estimate:
        """Raises InvalidValueError for a layer without an entry."""
        means, stds = self.predict_many([layers])
        return Estimate(float(means[0]), float(stds[0]), self.unmeasured(layers))

    def predict_many(self, networks: Sequence[Sequence[Layer]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Means (n,) and standard deviations (n,) in ms of networks given by their layers.

        Raises:
            InvalidValueError: a layer has no entry and no rule infers one.
        """
        means, stds = np.empty(len(networks)), np.empty(len(networks))
        for start in range(0, len(networks), _CHUNK):
            part = slice(start, start + _CHUNK)
            counts, doubt = self.design(networks[part])
            mean, variance = self.posterior.latent(counts)
            means[part], stds[part] = self.with_residual(mean, variance + doubt)
        return means, stds

    def with_residual(
        self, means: NDArray[np.float64], variances: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Means (n,) and standard deviations (n,) in ms of measurements, from those of the sum of layers."""
        stds = np.sqrt(variances + np.square(self.posterior.spread * means))
        # A wide prior can give a negative mean; no network is faster than a hundredth of its overhead.
        return np.maximum(means, 0.01 * self.overhead.mean_ms), stds

    def with_observations(self, observations: Sequence[Observation], *, refit: bool = True) -> LatencyTable:
        """A new table with these observations added.

        ``refit`` also chooses the hyper-parameters anew (from 8 observations on).

        Raises:
            InvalidValueError: an observation contains a layer without an entry.
        """
        table = replace(self, observations=self.observations + tuple(observations))
        if not refit or self.learned is not None:  # a learned prior chooses its own
            _ = table.posterior
            return table
        fitted = model.fit_hyperparameters(table._structure, table._data, table._defaults)
        return replace(table, hyperparameters=None if fitted == table._defaults else fitted)

    def design(self, networks: Sequence[Sequence[Layer]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Counts (n, entries + 1), the overhead last, and the variance (n,) ms^2 that inferring layers adds."""
        columns: dict[int, _Column] = {}  # by identity: spaces hand out the same Layer objects again and again
        rows: list[list[_Column]] = []
        for layers in networks:
            for layer in layers:
                if id(layer) not in columns:
                    columns[id(layer)] = self._column(self.key(layer))
            rows.append([columns[id(layer)] for layer in layers])
        return self._design_of_columns(rows)

    @cached_property
    def posterior(self) -> model.Posterior:
        """Of the layers' times and the overhead (last), given the observations."""
        if self.learned is not None:
            data = self._data
            return few_shot.posterior(self.learned.few_shot, data.counts, data.latency_ms, data.variance)
        return model.posterior(self._structure, self.hyperparameters or self._defaults, self._data)

    @cached_property
    def _has_measured_entries(self) -> bool:
        return any(entry.origin != "estimated" for entry in self.entries.values())

    @cached_property
    def _seen(self) -> frozenset[str]:
        alone = {key for key, entry in self.entries.items() if entry.origin == "measured"}
        return frozenset(alone.union(*(dict(observation.counts) for observation in self.observations)))

    @property
    def _defaults(self) -> Hyperparameters:
        return model.MEASURED_DEFAULTS if self._has_measured_entries else model.ESTIMATED_DEFAULTS

    @cached_property
    def _structure(self) -> model.Structure:
        entries = {Layer.from_key(key): (entry.mean_ms, entry.deviation_ms) for key, entry in self.entries.items()}
        num_weights = [entry.num_weights for entry in self.entries.values()]
        return model.structure(entries, (self.overhead.mean_ms, self.overhead.deviation_ms), num_weights)

    @cached_property
    def _data(self) -> model.Observations:
        rows = [[self._column(key) for key, count in o.counts for _ in range(count)] for o in self.observations]
        counts, doubt = self._design_of_columns(rows)
        stated = np.array([o.deviation_ms for o in self.observations])
        # Unnamed sessions are each another one.
        names = [o.session or f"unnamed {number}" for number, o in enumerate(self.observations)]
        session = np.array([sorted(set(names)).index(name) for name in names], dtype=np.int64)
        measured = np.array([o.measured_ms for o in self.observations])
        return model.Observations(counts, measured, stated**2 + doubt, session)

    def _design_of_columns(self, rows: list[list[_Column]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        width = len(self.entries) + 1
        flat = [n * width + column.index for n, row in enumerate(rows) for column in row]
        scales = [column.scale for row in rows for column in row]
        summed = np.bincount(np.array(flat, dtype=np.int64), weights=scales, minlength=len(rows) * width)
        counts = np.asarray(summed, dtype=np.float64).reshape(len(rows), width)
        counts[:, -1] = 1.0
        return counts, np.array([sum(column.doubt_ms for column in row) ** 2 for row in rows])

    @cached_property
    def _columns(self) -> dict[str, _Column | None]:
        return {key: _Column(index) for index, key in enumerate(self.entries)}

    def _column(self, key: str) -> _Column:
        column = self._find(key)
        if column is None:
            raise InvalidValueError(
                f"the latency table of target {self.target!r} for {self.space} has no entry for layer {key}",
                fix=f"hwautoml profile --target {self.target} --runtime {self.runtime}",
            )
        return column

    def _find(self, key: str) -> _Column | None:
        if key not in self._columns:
            self._columns[key] = self._infer_for_other_classes(Layer.from_key(key))
        return self._columns[key]

    def _infer_for_other_classes(self, layer: Layer) -> _Column | None:
        """A classifier's time for another number of classes, from the entry nearest in classes.

        Pooling costs in x h x w, the product in x classes. Whether time follows that sum or stays
        constant (launch cost) is unknown: the middle is taken, half the difference is the doubt.
        """
        if not layer.is_head:
            return None
        same = [
            (abs(math.log(known.out_channels / layer.out_channels)), known.out_channels, index)
            for index, known in enumerate(map(Layer.from_key, self.entries))
            if known.kind == layer.kind and replace(known, out_channels=layer.out_channels) == layer
        ]
        if not same:
            return None
        _, num_classes, index = min(same)
        area = layer.height * layer.width
        ratio = (area + layer.out_channels) / (area + num_classes)
        mean_ms = list(self.entries.values())[index].mean_ms
        return _Column(index, (1 + ratio) / 2, abs(ratio - 1) / 2 * mean_ms)


def choose_to_measure(
    table: LatencyTable, candidates: Sequence[Sequence[Layer]], num: int, *, criterion: Criterion = "alc"
) -> tuple[int, ...]:
    """Indices of ``num`` candidates (given by their layers) to measure, most informative first; see ``choose_rows``.

    Raises:
        InvalidValueError: more are asked for than there are candidates, or a layer has no entry.
    """
    counts, doubt = table.design(candidates)
    return choose_rows(table.posterior, counts, num, doubt=doubt, criterion=criterion)


def next_to_measure(table: LatencyTable, candidates: Sequence[Sequence[Layer]], *, criterion: Criterion = "alc") -> int:
    """Index of the candidate to measure next; see ``choose_to_measure``."""
    return choose_to_measure(table, candidates, 1, criterion=criterion)[0]
