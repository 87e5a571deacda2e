from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from hwautoml.core.latency_prior import doubt_wild_entries, infer_entries, roofline_table
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.layer import Layer
from hwautoml.core.observation import Entry, Observation
from hwautoml.core.table_identity import TableIdentity
from hwautoml.core.target import load_target
from hwautoml.errors import InvalidValueError
from hwautoml.spaces.mobile import MobileSpace

SPACE = MobileSpace(32, 3, 10)
COSTS = {layer.key: SPACE.cost(layer) for layer in SPACE.all_layers()}
TARGETS = Path(__file__).parents[2] / "targets"


def machine_ms(key: str) -> float:
    """A made-up machine: arithmetic, memory and launches add up, kinds differ in efficiency."""
    cost, efficiency = COSTS[key], 0.4 if "mbconv" in key else 1.0
    return cost.macs / (2e7 * efficiency) + cost.bytes_moved / 1e7 + 0.002 * cost.num_kernels


@pytest.mark.parametrize("num_measured", [60, 300])
def test_inferred_entries_are_near_and_say_how_near(num_measured: int) -> None:
    keys = [list(COSTS)[i] for i in np.random.default_rng(0).permutation(len(COSTS))]
    known, unknown = keys[:num_measured], keys[num_measured:]
    inferred = infer_entries({key: Entry(machine_ms(key), 0.0) for key in known}, unknown, COSTS)
    assert set(inferred) == set(unknown)
    assert {entry.origin for entry in inferred.values()} == {"inferred"}
    truth = np.array([machine_ms(key) for key in unknown])
    means = np.array([inferred[key].mean_ms for key in unknown])
    deviations = np.array([inferred[key].deviation_ms for key in unknown])
    assert np.median(np.abs(means / truth - 1)) < 0.15
    assert (np.abs(means - truth) < 1.96 * deviations).mean() > 0.85


def test_a_kind_never_measured_is_inferred_with_more_doubt() -> None:
    known = [key for key in COSTS if "/mbconv/" in key or "/basic/" in key]
    measured = {key: Entry(machine_ms(key), 0.0) for key in known[:-1]}
    head = next(key for key in COSTS if "/head/" in key)
    inferred = infer_entries(measured, [head, known[-1]], COSTS)

    def relative(key: str) -> float:
        return inferred[key].deviation_ms / inferred[key].mean_ms

    assert relative(head) > relative(known[-1])


def test_a_single_measured_layer_is_enough_and_none_is_not() -> None:
    first, *others = COSTS
    inferred = infer_entries({first: Entry(1.0, 0.0)}, others, COSTS)
    assert all(entry.deviation_ms >= 0.3 * entry.mean_ms for entry in inferred.values())
    with pytest.raises(InvalidValueError, match="there is none"):
        infer_entries({}, others, COSTS)
    assert infer_entries({}, [], COSTS) == {}


@pytest.mark.parametrize("name", ["cpu", "gpu", "rpi4"])
def test_roofline_orders_networks_and_admits_its_ignorance(name: str) -> None:
    target = load_target(name, [TARGETS])
    layers = [(layer, SPACE.cost(layer)) for layer in SPACE.all_layers()]
    identity = TableIdentity(target.name, "tvm", target.num_threads, 1, target.precisions[0], SPACE.family)
    table = roofline_table(target, layers, identity)
    assert table.origin == "estimated"
    small = table.predict(SPACE.layers(SPACE.smallest()))
    large = table.predict(SPACE.layers(SPACE.largest()))
    assert small.mean_ms < large.mean_ms
    assert large.std_ms > 0.5 * large.mean_ms
    with pytest.raises(InvalidValueError, match="'fp32',., not in 'int8'"):
        roofline_table(replace(target, precisions=("fp32",)), layers, replace(identity, precision="int8"))


WILD = {
    "wild": st.lists(st.tuples(st.integers(0, 399), st.floats(-12, 8)), min_size=1, max_size=6),
    "seed": st.integers(0, 1000),
}


@settings(max_examples=3, deadline=None, derandomize=True)
@given(**WILD)
def test_wild_layers_poison_neither_the_others_nor_networks(wild: list[tuple[int, float]], seed: int) -> None:
    neither_is_poisoned(wild, seed)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, phases=[Phase.generate])  # to find a smaller one would take minutes
@given(**WILD)
def test_many_wild_layers_poison_neither_the_others_nor_networks(wild: list[tuple[int, float]], seed: int) -> None:
    neither_is_poisoned(wild, seed)


def neither_is_poisoned(wild: list[tuple[int, float]], seed: int) -> None:
    """A few entries are off by up to e^8, or nearly zero; the networks are right."""
    rng = np.random.default_rng(seed)
    keys = [list(COSTS)[i] for i in rng.permutation(len(COSTS))[:400]]
    times = {key: machine_ms(key) * rng.lognormal(0, 0.03) for key in keys}
    for index, power in wild:
        times[keys[index]] = machine_ms(keys[index]) * np.exp(power)
    measured = doubt_wild_entries({key: Entry(ms, 0.01 * ms) for key, ms in times.items()}, COSTS)
    for index, power in wild:
        entry = measured[keys[index]]
        if abs(power) > (9 if "/head/" in keys[index] or "/stem/" in keys[index] else 3):
            assert abs(entry.mean_ms - machine_ms(keys[index])) < 2 * entry.deviation_ms
    inferred = infer_entries(measured, [key for key in COSTS if key not in measured], COSTS)
    truth = np.array([machine_ms(key) for key in inferred])
    assert np.median(np.abs(np.array([entry.mean_ms for entry in inferred.values()]) / truth - 1)) < 0.15
    identity = TableIdentity("cpu", "onnxruntime", 1, 1, "fp32", "mobile")
    table = LatencyTable(identity, measured | inferred, Entry(0.01, 0.001))

    def network_ms(layers: tuple[Layer, ...]) -> float:
        return 0.01 + sum(machine_ms(layer.key) for layer in layers)

    networks = [SPACE.layers(SPACE.sample(rng)) for _ in range(80)]
    fitted = table.with_observations(
        [Observation("0" * 12, table.counts(layers), network_ms(layers), 0.005) for layers in networks[:40]]
    )
    means, stds = fitted.predict_many(networks[40:])
    truth = np.array([network_ms(layers) for layers in networks[40:]])
    assert np.median(np.abs(means / truth - 1)) < 0.05
    assert (np.abs(means - truth) < 3 * stds).mean() > 0.8
