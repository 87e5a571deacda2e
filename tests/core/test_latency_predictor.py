from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwautoml.core.latency_predictor import Predictor, fastest_forms, latencies_of
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.observation import Entry, Observation
from hwautoml.core.space import SearchSpace
from hwautoml.core.table_identity import TableIdentity
from hwautoml.errors import InvalidValueError
from hwautoml.spaces import load_space
from hwautoml.spaces.mobile import MobileSpace


def table(space: SearchSpace, num_observations: int, scale: float = 1.1) -> LatencyTable:
    """Entries ``scale`` too high, and networks whose latency is the sum of the right ones."""
    rng = np.random.default_rng(0)
    right = {layer.key: 0.001 + space.cost(layer).macs / 1e8 for layer in space.all_layers()}
    entries = {key: Entry(scale * ms, 0.05 * ms) for key, ms in right.items()}
    identity = TableIdentity("cpu", "onnxruntime", 1, 1, "fp32", "space")
    empty = LatencyTable(identity, entries, Entry(0.01, 0.002))
    observations = []
    for _ in range(num_observations):
        counts = empty.counts(space.layers(space.sample(rng)))
        measured_ms = (0.01 + sum(right[key] * n for key, n in counts)) * rng.lognormal(0, 0.01)
        observations.append(Observation(f"{rng.integers(2**40):012x}", counts, measured_ms, 0.005 * measured_ms))
    return empty.with_observations(observations)


@pytest.mark.parametrize("num_observations", [0, 30])
@pytest.mark.parametrize("name", ["mobile", "nasbench201", "ofa-mobilenetv3"])
def test_it_is_predict_many_by_other_means(name: str, num_observations: int) -> None:
    space = load_space(name, image_size=32, channels=3, num_outputs=10) if name == "mobile" else load_space(name)
    fitted = table(space, num_observations)
    encodings = np.random.default_rng(1).integers(0, space.num_options, (60, len(space.num_options)))
    found = Predictor(fitted, space).predict(encodings)
    expected = fitted.predict_many([space.layers(space.decode(row)) for row in encodings])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_classifier_for_other_classes_is_inferred_the_same_way() -> None:
    fitted, space = table(MobileSpace(32, 3, 10), 10), MobileSpace(32, 3, 100)
    encodings = np.random.default_rng(1).integers(0, space.num_options, (40, len(space.num_options)))
    found = Predictor(fitted, space).predict(encodings)
    expected = fitted.predict_many([space.layers(space.decode(row)) for row in encodings])
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_no_architectures_and_more_than_one_part() -> None:
    space = MobileSpace(32, 3, 10)
    predictor = Predictor(table(space, 5), space)
    encodings = np.random.default_rng(1).integers(0, space.num_options, (8200, len(space.num_options)))
    means, stds = predictor.predict(encodings)
    assert [len(values) for values in predictor.predict(encodings[:0])] == [0, 0]
    np.testing.assert_allclose(predictor.predict(encodings[8190:]), (means[8190:], stds[8190:]), rtol=1e-9)


def test_a_layer_without_entry_is_named() -> None:
    space = MobileSpace(32, 3, 10)
    full = table(space, 0)
    first, *rest = full.entries
    partial = replace(full, entries={key: full.entries[key] for key in rest})
    with pytest.raises(InvalidValueError, match=first):
        Predictor(partial, space)


def test_each_network_is_predicted_in_its_fastest_form() -> None:
    space = MobileSpace(8, 1, 10)
    plain = table(space, 0)
    tables = {
        "onnxruntime": scaled(plain, {"fused": 3.0, "basic": 3.0}),
        "tvm": scaled(plain, {"mbconv": 3.0, "mbconv_se": 3.0}),
    }
    members = [
        space.architecture({**space.largest().as_dict, **{f"stage{i}.kind": kind for i in range(3)}})
        for kind in ("mbconv", "fused")
    ]
    names, means, deviations = fastest_forms(space, tables, members)
    assert names == ["onnxruntime", "tvm"]
    for name, mean, deviation, member in zip(names, means, deviations, members, strict=True):
        expected = tables[name].predict(space.layers(member))
        assert (mean, deviation) == (pytest.approx(expected.mean_ms), pytest.approx(expected.std_ms))
    encodings = np.array([space.encode(member) for member in members])
    np.testing.assert_allclose(latencies_of(space, tables)(encodings), (means, deviations), rtol=1e-9)


def scaled(plain: LatencyTable, factors: dict[str, float]) -> LatencyTable:
    """``factors``: by the kind of a layer; others stay."""
    entries = {
        key: Entry(entry.mean_ms * factors.get(key.split("/")[1], 1.0), entry.deviation_ms, entry.origin)
        for key, entry in plain.entries.items()
    }
    return replace(plain, entries=entries)
