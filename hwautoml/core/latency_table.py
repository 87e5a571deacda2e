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
from hwautoml.core.latency_model import Hyperparameters
from hwautoml.core.layer import Layer
from hwautoml.core.learned_prior import LearnedPrior
from hwautoml.core.observation import Entry, Estimate, Observation
from hwautoml.core.table_identity import TableIdentity
from hwautoml.errors import InvalidValueError

SCHEMA = "latency-table/v1"
_CHUNK = 512  # rows of a dense (rows, entries) count matrix at a time


@dataclass(frozen=True)
class _Column:
    """Where a layer key sits in the design matrix; ``scale`` and ``doubt_ms`` differ from 1 and 0 if inferred."""

    index: int
    scale: float = 1.0
    doubt_ms: float = 0.0


@dataclass(frozen=True)
class LatencyTable:
    """Latencies of one family of spaces on one target, runtime, thread count, batch and precision: its identity.

    With a ``learned`` prior (few-shot, from siblings) predictions come from that, and the entries are for people.
    Layers are looked up by shape; precision and batch are the table's, whatever the layer says.
    """

    identity: TableIdentity
    entries: Mapping[str, Entry]
    overhead: Entry
    observations: tuple[Observation, ...] = ()
    hyperparameters: Hyperparameters | None = None
    conditions: Mapping[str, object] = field(default_factory=dict)
    learned: LearnedPrior | None = None
    schema: str = SCHEMA

    @property
    def target(self) -> str:
        return self.identity.target

    @property
    def runtime(self) -> str:
        return self.identity.runtime

    @property
    def num_threads(self) -> int:
        return self.identity.num_threads

    @property
    def batch(self) -> int:
        return self.identity.batch

    @property
    def precision(self) -> str:
        return self.identity.precision

    @property
    def space(self) -> str:
        """The family (``mobile/v1/32x32x3``), which leaves the number of classes open."""
        return self.identity.space

    @property
    def form(self) -> str:
        """The name of the form in which networks run: the runtime, and the precision unless it is fp32."""
        return self.identity.form.name

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
        return self.identity.key(layer)

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
                fix=f"make it anew with hwautoml profile, for target {self.target} and runtime {self.runtime}",
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
