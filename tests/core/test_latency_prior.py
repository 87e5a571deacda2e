from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hwautoml.core.latency_prior import infer_entries, roofline_table
from hwautoml.core.latency_table import Entry
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
    table = roofline_table(
        target, layers, space=SPACE.family, runtime="tvm", batch=1, precision=target.precisions[0]
    )
    assert table.origin == "estimated"
    small = table.predict(SPACE.layers(SPACE.smallest()))
    large = table.predict(SPACE.layers(SPACE.largest()))
    assert small.mean_ms < large.mean_ms
    assert large.std_ms > 0.5 * large.mean_ms
    with pytest.raises(InvalidValueError, match="fp7"):
        roofline_table(target, layers, space=SPACE.family, runtime="tvm", batch=1, precision="fp7")
