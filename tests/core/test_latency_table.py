from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwautoml.core.active_selection import choose_to_measure
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.layer import Layer
from hwautoml.core.observation import Entry, Estimate, Observation
from hwautoml.core.table_identity import TableIdentity
from hwautoml.errors import InvalidValueError

LAYERS = tuple(
    Layer(kind, width, size, size, width, kernel_size=kernel)
    for kind in ("mbconv", "fused")
    for width in (8, 16, 24)
    for size in (8, 16)
    for kernel in (3, 5)
)
HEAD = Layer("head", 24, 8, 8, 10)
IDENTITY = TableIdentity("cpu", "onnxruntime", 1, 1, "fp32", "tiny/v1")


def true_ms(layer: Layer) -> float:
    return 1e-6 * layer.in_channels**2 * layer.height**2 * layer.kernel_size + 0.01


def table(scale: float = 1.15) -> LatencyTable:
    """Entries that are ``scale`` times too high."""
    entries = {layer.key: Entry(scale * true_ms(layer), 0.02 * true_ms(layer)) for layer in (*LAYERS, HEAD)}
    return LatencyTable(IDENTITY, entries, Entry(0.01, 0.002))


def network(rng: np.random.Generator) -> tuple[Layer, ...]:
    return (*(LAYERS[i] for i in rng.integers(0, len(LAYERS), rng.integers(3, 9))), HEAD)


def network_ms(layers: tuple[Layer, ...]) -> float:
    return 0.01 + sum(map(true_ms, layers))


def observe(base: LatencyTable, layers: tuple[Layer, ...], measured_ms: float) -> Observation:
    return Observation("0" * 12, base.counts(layers), measured_ms, 0.005 * measured_ms)


def errors(fitted: LatencyTable, networks: list[tuple[Layer, ...]]) -> np.ndarray:
    means, _ = fitted.predict_many(networks)
    return np.abs(means / np.array([network_ms(n) for n in networks]) - 1)


def test_without_observations_entries_are_summed() -> None:
    layers = (LAYERS[0], LAYERS[0], LAYERS[5], HEAD)
    expected = 0.01 + sum(1.15 * true_ms(layer) for layer in layers)
    assert table().predict(layers).mean_ms == pytest.approx(expected)


def test_observations_correct_a_level_that_is_off() -> None:
    rng = np.random.default_rng(0)
    seen, unseen = [network(rng) for _ in range(20)], [network(rng) for _ in range(50)]
    base = table()
    fitted = base.with_observations([observe(base, n, network_ms(n) * rng.lognormal(0, 0.01)) for n in seen])
    assert errors(base, unseen).mean() > 0.1
    assert errors(fitted, unseen).mean() < 0.03
    means, stds = fitted.predict_many(unseen)
    truth = np.array([network_ms(n) for n in unseen])
    assert (np.abs(means - truth) < 1.96 * stds).mean() > 0.9
    assert base.observations == ()


@pytest.mark.parametrize("factor", [5.0, 0.2, 1e-5, 1e3])
def test_a_wild_observation_does_not_poison(factor: float) -> None:
    rng = np.random.default_rng(1)
    seen, unseen = [network(rng) for _ in range(20)], [network(rng) for _ in range(50)]
    base = table()
    observations = [observe(base, n, network_ms(n)) for n in seen]
    observations[4] = replace(observations[4], measured_ms=factor * observations[4].measured_ms)
    assert errors(base.with_observations(observations), unseen).mean() < 0.03


def test_one_and_many_predictions_agree() -> None:
    rng = np.random.default_rng(2)
    networks = [network(rng) for _ in range(1100)]  # more than one chunk
    means, stds = table().predict_many(networks)
    for index in (0, 511, 512, 1099):
        assert table().predict(networks[index]) == Estimate(pytest.approx(means[index]), pytest.approx(stds[index]))
    assert [len(a) for a in table().predict_many([])] == [0, 0]


def test_a_layer_without_entry_is_never_zero() -> None:
    unknown = Layer("mbconv", 999, 8, 8, 8)
    assert table().missing([LAYERS[0], unknown]) == (unknown.key,)
    with pytest.raises(InvalidValueError, match="in999x8x8") as caught:
        table().predict([LAYERS[0], unknown])
    assert "hwautoml profile, for target cpu" in str(caught.value)
    with pytest.raises(InvalidValueError, match="in999x8x8"):
        table().with_observations([Observation("0" * 12, ((unknown.key, 1),), 1.0)])


def test_a_layer_that_nobody_measured_is_named_and_widens_the_interval() -> None:
    base, guessed = table(), LAYERS[3]
    entry = base.entries[guessed.key]
    wide = Entry(entry.mean_ms, 0.4 * entry.mean_ms, "inferred")
    partial = replace(base, entries={**base.entries, guessed.key: wide})
    network = (LAYERS[0], guessed, HEAD)
    assert base.predict(network).unmeasured == ()
    assert partial.predict(network).unmeasured == (guessed.key,)
    assert partial.predict(network).std_ms > base.predict(network).std_ms
    # Within a network it was measured, and the network tells its time apart from the others'.
    seen = partial.with_observations([observe(base, network, network_ms(network))])
    assert seen.predict(network).unmeasured == ()
    assert seen.predict(network).std_ms < partial.predict(network).std_ms


def test_a_classifier_for_other_classes_is_inferred() -> None:
    base = table()
    same, more = base.predict([HEAD]), base.predict([replace(HEAD, out_channels=100)])
    assert base.missing([replace(HEAD, out_channels=100)]) == ()
    assert more.mean_ms > same.mean_ms
    assert more.std_ms > same.std_ms
    # Another input is another layer.
    assert base.missing([replace(HEAD, in_channels=32)]) != ()


def test_precision_and_batch_are_the_tables() -> None:
    base = table()
    entries = {key.replace("fp32", "int8"): entry for key, entry in base.entries.items()}
    int8 = replace(base, identity=replace(IDENTITY, precision="int8"), entries=entries)
    assert int8.predict(LAYERS[:3]) == base.predict(LAYERS[:3])
    assert all("/int8/" in key for key, _ in int8.counts(LAYERS))


def test_origin() -> None:
    estimated = {key: replace(entry, origin="estimated") for key, entry in table().entries.items()}
    roofline = replace(table(), entries=estimated)
    assert table().origin == "measured"
    assert roofline.origin == "estimated"
    assert roofline.with_observations([observe(roofline, LAYERS[:2], 1.0)]).origin == "measured"


def test_chosen_measurements_are_distinct_and_teach_more_than_random_ones() -> None:
    rng = np.random.default_rng(3)
    pool, base = [network(rng) for _ in range(120)], table()

    def mean_std(indices: tuple[int, ...]) -> float:
        observations = [observe(base, pool[i], network_ms(pool[i])) for i in indices]
        return float(base.with_observations(observations).predict_many(pool)[1].mean())

    chosen = choose_to_measure(base, pool, 6)
    assert len(set(chosen)) == 6
    assert choose_to_measure(base, pool, 1) == chosen[:1]
    at_random = [mean_std(tuple(rng.choice(120, 6, replace=False))) for _ in range(10)]
    assert mean_std(chosen) < np.mean(at_random)
    variances = base.predict_many(pool)[1]
    assert choose_to_measure(base, pool, 1, criterion="variance") == (int(np.argmax(variances)),)
    with pytest.raises(InvalidValueError, match="cannot choose 2 of 1"):
        choose_to_measure(base, pool[:1], 2)


def test_interval_stays_positive() -> None:
    low, high = Estimate(1.0, 2.0).interval_ms
    assert 0 < low < high == pytest.approx(4.92)


@pytest.mark.parametrize(
    ("mean_ms", "deviation_ms", "origin"),
    [
        (0.0, 0.1, "measured"),
        (float("nan"), 0, "measured"),
        (1, -1, "measured"),
        (1, float("inf"), "measured"),
        (1, 0, "guessed"),
    ],
)
def test_entries_are_validated(mean_ms: float, deviation_ms: float, origin: str) -> None:
    with pytest.raises(InvalidValueError):
        Entry(mean_ms, deviation_ms, origin)  # type: ignore[arg-type]
