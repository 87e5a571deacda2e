"""What others predict latency with, given the same measurements as a latency table.

Each function takes a profiled table and returns predicted milliseconds (n,) for networks given by their layers.
All but ``sum_of_layers`` and ``random_forest`` learn from the table's whole-network measurements; those two
use its micro-benchmarks alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.layer import Layer, LayerCost
from hwautoml.core.space import SearchSpace

Array = NDArray[np.float64]
Networks = Sequence[Sequence[Layer]]


def sum_of_layers(table: LatencyTable, space: SearchSpace, networks: Networks) -> Array:
    """Entries as micro-benchmarks gave them, and the overhead: what a lookup table does (ProxylessNAS 2019)."""
    counts, _ = table.design(networks)
    means = np.array([entry.mean_ms for entry in table.entries.values()])
    return np.asarray(counts @ np.append(means, table.overhead.mean_ms))


def levelled_sum(table: LatencyTable, space: SearchSpace, networks: Networks) -> Array:
    """The sum of layers times one factor, the median ratio to the measured networks."""
    seen = sum_of_layers(table, space, _observed(table))
    return float(np.median(_measured(table) / seen)) * sum_of_layers(table, space, networks)


def flops_regression(table: LatencyTable, space: SearchSpace, networks: Networks) -> Array:
    """Straight line in the number of multiply-accumulates, least squares of relative errors."""
    measured = _measured(table)
    design = _macs(space, _observed(table))
    weights, *_ = np.linalg.lstsq(design / measured[:, None], np.ones(len(measured)), rcond=None)
    return np.asarray(_macs(space, networks) @ weights)


def ridge_on_counts(table: LatencyTable, space: SearchSpace, networks: Networks) -> Array:
    """Ridge regression on how often each layer occurs; its strength by leave-one-out cross-validation."""
    from sklearn.linear_model import RidgeCV

    seen, _ = table.design(_observed(table))
    unseen, _ = table.design(networks)
    measured = _measured(table)
    model = RidgeCV(alphas=np.logspace(-4, 3, 22)).fit(seen[:, :-1], measured, sample_weight=measured**-2)
    return np.asarray(model.predict(unseen[:, :-1]))


def random_forest(table: LatencyTable, space: SearchSpace, networks: Networks) -> Array:
    """A forest on each layer's features, learnt from the micro-benchmarks, summed: nn-Meter (Zhang et al. 2021).

    nn-Meter finds a runtime's fused kernels itself; here they are the space's layers.
    """
    from sklearn.ensemble import RandomForestRegressor

    measured = {Layer.from_key(key): e.mean_ms for key, e in table.entries.items() if e.origin == "measured"}
    kinds = sorted({layer.kind for layer in measured})
    features = np.array([_features(layer, space.cost(layer), kinds) for layer in measured])
    forest = RandomForestRegressor(n_estimators=300, random_state=0).fit(features, np.log(list(measured.values())))
    layers = list({layer: None for network in networks for layer in network})
    guessed = np.exp(forest.predict(np.array([_features(layer, space.cost(layer), kinds) for layer in layers])))
    time_ms = dict(zip(layers, guessed, strict=True))
    return np.array([table.overhead.mean_ms + sum(time_ms[layer] for layer in network) for network in networks])


PEERS: Mapping[str, Callable[[LatencyTable, SearchSpace, Networks], Array]] = {
    "sum of layers": sum_of_layers,
    "sum of layers, levelled": levelled_sum,
    "FLOPs regression": flops_regression,
    "ridge on counts": ridge_on_counts,
    "random forest on layers": random_forest,
}


def _observed(table: LatencyTable) -> list[list[Layer]]:
    return [[Layer.from_key(key) for key, n in o.counts for _ in range(n)] for o in table.observations]


def _measured(table: LatencyTable) -> Array:
    return np.array([o.measured_ms for o in table.observations])


def _macs(space: SearchSpace, networks: Networks) -> Array:
    """(n, 2): a one and the multiply-accumulates in millions."""
    return np.array([[1.0, sum(space.cost(layer).macs for layer in network) / 1e6] for network in networks])


def _features(layer: Layer, cost: LayerCost, kinds: Sequence[str]) -> list[float]:
    shape = [layer.in_channels, layer.height, layer.out_channels, layer.kernel_size, layer.expansion, layer.stride]
    work = [cost.macs, cost.parameters, cost.bytes_moved, cost.num_kernels]
    return [*map(float, shape + work), *(float(layer.kind == kind) for kind in kinds)]
