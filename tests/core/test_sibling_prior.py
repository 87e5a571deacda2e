from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwautoml.core.latency_file import load, save
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.layer import Layer, LayerCost
from hwautoml.core.observation import Entry, Observation
from hwautoml.core.sibling_prior import ASSUMED_SPREAD, at_level_of, sibling_prior_table
from hwautoml.core.table_identity import TableIdentity
from hwautoml.errors import InvalidValueError, RunFolderError

LAYERS = tuple(Layer("conv", width, side, side, width) for side in (8, 16) for width in (8, 16, 32))
TRUE_MS = np.array([0.1, 0.2, 0.5, 0.3, 0.8, 2.0])


def cost(layer: Layer) -> LayerCost:
    macs, moved = 9 * layer.in_channels * layer.out_channels * layer.height**2, 4 * layer.in_channels * layer.height**2
    return LayerCost(macs, 9 * layer.in_channels * layer.out_channels, moved, moved, 1)


KNOWN = TableIdentity("known", "tvm", 1, 1, "fp32", "tiny/v1/16x16x3")
NEW = replace(KNOWN, target="new")


def device(level: float, factors: np.ndarray | float = 1.0, **changes: object) -> LatencyTable:
    times = level * TRUE_MS * factors
    entries = {layer.key: Entry(float(ms), 0.01 * float(ms)) for layer, ms in zip(LAYERS, times, strict=True)}
    table = LatencyTable(KNOWN, entries, Entry(0.02 * level, 0.01 * level))
    return replace(table, **changes)  # type: ignore[arg-type]


def observed(table: LatencyTable, level: float, number: int) -> list[Observation]:
    """Whole networks on a device whose layers all cost ``level * TRUE_MS``, without noise."""
    rng, found = np.random.default_rng(0), []
    for index in range(number):
        counts = rng.integers(0, 3, len(LAYERS)) + (np.arange(len(LAYERS)) == index % len(LAYERS))
        latency = level * (0.02 + float(counts @ TRUE_MS))
        chosen = tuple(sorted((layer.key, int(n)) for layer, n in zip(LAYERS, counts, strict=True) if n))
        found.append(Observation(f"n{index}", chosen, latency))
    return found


def means(table: LatencyTable) -> np.ndarray:
    return np.array([table.entries[layer.key].mean_ms for layer in LAYERS])


def test_equal_siblings_at_different_levels_give_their_profile_at_the_middle_level() -> None:
    prior = sibling_prior_table([device(1.0), device(4.0)], NEW, cost=cost)
    assert (prior.target, prior.runtime, prior.space) == ("new", "tvm", "tiny/v1/16x16x3")
    assert np.allclose(means(prior), 2.0 * TRUE_MS)
    assert prior.overhead.mean_ms == pytest.approx(0.04)
    assert {entry.origin for entry in prior.entries.values()} == {"inferred"}
    assert prior.origin == "estimated", "nothing was measured on the new device"


def test_layers_that_siblings_disagree_about_are_less_certain() -> None:
    odd = np.array([1, 1, 1, 1, 1, 3.0])
    prior = sibling_prior_table([device(1.0), device(1.0, odd), device(1.0)], NEW, cost=cost)
    relative = np.array([prior.entries[layer.key].deviation_ms for layer in LAYERS]) / means(prior)
    assert relative[-1] > 1.5 * relative[0]
    assert relative.min() > 0.5 * ASSUMED_SPREAD, "agreement of three is no proof"


def test_one_sibling_is_a_prior_too() -> None:
    prior = sibling_prior_table([device(1.0)], NEW, cost=cost)
    assert np.allclose(means(prior), TRUE_MS)
    estimate = prior.predict(LAYERS)
    assert estimate.std_ms > 0.3 * estimate.mean_ms, "the new device's level is unknown"


def test_precision_and_batch_are_the_new_tables() -> None:
    prior = sibling_prior_table([device(1.0)], replace(NEW, precision="int8", batch=4), cost=cost)
    assert all(key.endswith("/int8/b4") for key in prior.entries)
    assert prior.predict(LAYERS).mean_ms > 0


def test_a_layer_that_one_sibling_lacks_comes_from_the_others() -> None:
    complete, partial = device(1.0), device(2.0)
    entries = {key: entry for key, entry in partial.entries.items() if key != LAYERS[0].key}
    prior = sibling_prior_table([complete, replace(partial, entries=entries)], NEW, cost=cost)
    assert np.allclose(means(prior), np.sqrt(2) * TRUE_MS)


def test_measurements_tell_the_level_and_narrow_the_interval() -> None:
    prior = sibling_prior_table([device(1.0), device(2.0)], NEW, cost=cost)
    observations = observed(prior, level=20.0, number=4)
    table = at_level_of(prior, observations).with_observations(observations)
    estimate, truth = table.predict(LAYERS), 20.0 * (0.02 + TRUE_MS.sum())
    assert estimate.mean_ms == pytest.approx(truth, rel=0.05)
    assert estimate.std_ms < 0.2 * estimate.mean_ms
    assert table.origin == "measured"
    assert at_level_of(prior, []) is prior


def test_one_wild_measurement_does_not_move_the_level() -> None:
    prior = sibling_prior_table([device(1.0)], NEW, cost=cost)
    observations = observed(prior, level=2.0, number=7)
    observations[3] = replace(observations[3], measured_ms=100 * observations[3].measured_ms)
    assert at_level_of(prior, observations).conditions["level"] == pytest.approx(2.0, rel=0.01)


def test_siblings_must_be_of_one_space() -> None:
    other = device(1.0, identity=replace(KNOWN, space="other/v1/8x8x3"))
    with pytest.raises(InvalidValueError, match="of one space, tiny.v1.16x16x3, got other/v1/8x8x3, tiny/v1/16x16x3"):
        sibling_prior_table([device(1.0), other], NEW, cost=cost)
    with pytest.raises(InvalidValueError, match="got no table"):
        sibling_prior_table([], NEW, cost=cost)


def test_a_file_keeps_what_was_learned(tmp_path: Path) -> None:
    siblings = [device(1.0), device(2.0, observations=tuple(observed(device(1.0), 2.0, 12)))]
    prior = sibling_prior_table(siblings, NEW, cost=cost)
    table = at_level_of(prior, observed(prior, 7.0, 6)).with_observations(observed(prior, 7.0, 6))
    save(table, tmp_path / "table.json")
    again = load(tmp_path / "table.json")
    assert again.learned is not None and load(tmp_path / "table.json") == again
    expected, found = table.predict(LAYERS), again.predict(LAYERS)
    assert (found.mean_ms, found.std_ms) == pytest.approx((expected.mean_ms, expected.std_ms), rel=1e-4)
    assert found.mean_ms == pytest.approx(7.0 * (0.02 + TRUE_MS.sum()), rel=0.03)


def test_a_damaged_learned_prior_is_named(tmp_path: Path) -> None:
    save(sibling_prior_table([device(1.0)], NEW, cost=cost), tmp_path / "table.json")
    data = json.loads((tmp_path / "table.json").read_text())
    data["learned"]["shares"][0].pop()
    (tmp_path / "table.json").write_text(json.dumps(data))
    with pytest.raises(RunFolderError, match="damaged: a learned prior of 6 layers"):
        load(tmp_path / "table.json")
