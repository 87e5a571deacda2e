"""Devices are made here: their layers' times are known, so that predictions can be compared with the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwautoml.core import few_shot
from hwautoml.core.active_selection import choose_rows
from hwautoml.core.few_shot import FewShotPrior, Sibling, fit_terms, learn, posterior
from hwautoml.core.latency_components import DEAD, components, work_of
from hwautoml.core.layer import Layer, LayerCost
from hwautoml.errors import InvalidValueError

LAYERS = tuple(
    Layer(kind, channels, side, side, channels, kernel, expansion)
    for channels, side in ((16, 32), (32, 16), (64, 8))
    for kind in ("mbconv", "mbconv_se")
    for kernel in (3, 5)
    for expansion in (2, 4)
)
COSTS = tuple(
    LayerCost(
        macs=x.expansion * x.in_channels * x.height**2 * (2 * x.in_channels + x.kernel_size**2),
        depthwise_macs=x.expansion * x.in_channels * x.height**2 * x.kernel_size**2,
        parameters=x.expansion * x.in_channels * (2 * x.in_channels + x.kernel_size**2),
        bytes_moved=4 * x.expansion * x.in_channels * x.height**2,
        peak_activation_bytes=1,
        num_kernels=3,
    )
    for x in LAYERS
)


def networks(number: int, seed: int) -> np.ndarray:
    """Counts (number, layers + 1): ten layers each, and the overhead."""
    rng = np.random.default_rng(seed)
    counts = np.array([np.bincount(rng.integers(0, len(LAYERS), 10), minlength=len(LAYERS)) for _ in range(number)])
    return np.hstack([counts, np.ones((number, 1))]).astype(float)


def device(seed: int, level: float = 1.0) -> np.ndarray:
    """A device's terms in ms: so much per execution, per multiply-accumulate and per byte, and what is its own."""
    rng = np.random.default_rng(seed)
    per_run, dense, depthwise, moved = rng.gamma(2.0, 0.5, 4) * (0.01, 1e-8, 4e-8, 1e-7)
    times = [
        per_run + dense * (c.macs - c.depthwise_macs) + depthwise * c.depthwise_macs + moved * c.bytes_moved
        for c in COSTS
    ]
    return level * np.append(times * np.exp(0.05 * rng.standard_normal(len(times))), 0.05)


POOL = networks(400, seed=0)
WORK = work_of(COSTS)
COMPONENTS = components(LAYERS, WORK, POOL[:, :-1].mean(axis=0))


def sibling(number: int, family: str | None = None) -> Sibling:
    counts, terms = POOL[:60], device(number, level=1.0 + number)
    noise = 1 + 0.01 * np.random.default_rng(number).standard_normal(len(counts))
    return Sibling(f"device{number}", family or f"family{number}", terms, counts, noise * (counts @ terms))


@pytest.fixture(scope="module")
def prior() -> FewShotPrior:
    return learn(COMPONENTS, [sibling(number) for number in range(5)])


def errors(found: few_shot.Posterior, terms: np.ndarray) -> np.ndarray:
    unseen = networks(200, seed=9)
    mean, _ = found.predict(unseen)
    return np.abs(mean / (unseen @ terms) - 1)


def test_ten_measurements_of_a_new_device_predict_the_others(prior: FewShotPrior) -> None:
    terms = device(77, level=20.0)
    rows = choose_rows(posterior(prior, POOL[:0], np.zeros(0)), POOL, 10)
    found = posterior(prior, POOL[list(rows)], POOL[list(rows)] @ terms)
    assert float(np.median(errors(found, terms))) < 0.03
    assert float((errors(found, terms) < 0.1).mean()) > 0.95


def test_more_measurements_are_better_and_intervals_shrink(prior: FewShotPrior) -> None:
    terms, unseen = device(78), networks(100, seed=9)
    few, many = (posterior(prior, POOL[:n], POOL[:n] @ terms) for n in (5, 80))
    assert np.median(errors(many, terms)) < np.median(errors(few, terms))
    assert np.median(many.predict(unseen)[1]) < np.median(few.predict(unseen)[1])


def test_intervals_hold_what_is_predicted(prior: FewShotPrior) -> None:
    unseen, shares = networks(200, seed=9), []
    for number in range(60, 66):
        terms, rng = device(number), np.random.default_rng(number)
        measured = (POOL[:15] @ terms) * (1 + 0.01 * rng.standard_normal(15))
        mean, std = posterior(prior, POOL[:15], measured).predict(unseen)
        shares.append(float((np.abs(unseen @ terms - mean) < 1.96 * std).mean()))
    assert float(np.mean(shares)) > 0.85


@pytest.mark.parametrize("wild", [1e-3, 30.0])
def test_a_wild_measurement_poisons_nothing(prior: FewShotPrior, wild: float) -> None:
    terms = device(79)
    measured = POOL[:20] @ terms
    measured[4] *= wild
    found = posterior(prior, POOL[:20], measured)
    assert float(np.median(errors(found, terms))) < 0.05
    assert found.weights[4] < 0.1


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-3, 1e3), st.integers(1, 12))
def test_predictions_scale_with_the_devices_speed(factor: float, number: int) -> None:
    known = learn(COMPONENTS, [sibling(0), sibling(1)])
    measured, unseen = POOL[:number] @ device(80), networks(10, seed=9)
    mean, std = posterior(known, POOL[:number], measured).predict(unseen)
    scaled_mean, scaled_std = posterior(known, POOL[:number], factor * measured).predict(unseen)
    assert scaled_mean == pytest.approx(factor * mean, rel=1e-6)
    assert scaled_std == pytest.approx(factor * std, rel=1e-6)


def test_without_measurements_the_siblings_mean_is_all_there_is(prior: FewShotPrior) -> None:
    mean, std = posterior(prior, POOL[:0], np.zeros(0)).predict(POOL)
    assert mean == pytest.approx(prior.level_ms * (POOL @ prior.mean))
    assert bool((std > 0.3 * mean).all())  # nobody knows the level


def test_regimes_are_one_for_all_one_for_each_and_one_for_relatives(prior: FewShotPrior) -> None:
    assert len(prior.regimes) == 5 + 2
    assert set(prior.regimes[0].amplitudes) == {"scale", "sibling", *COMPONENTS} == set(few_shot.TYPICAL.amplitudes)


def test_too_few_families_to_learn_from_have_typical_amplitudes() -> None:
    relatives = [sibling(number, family=f"family{number % 2}") for number in range(4)]
    assert learn(COMPONENTS, relatives).regimes == (few_shot.TYPICAL,)
    with pytest.raises(InvalidValueError, match="at least one sibling"):
        learn(COMPONENTS, [])


def test_the_same_seed_learns_the_same() -> None:
    three = [sibling(number) for number in range(3)]
    assert learn(COMPONENTS, three).regimes == learn(COMPONENTS, three).regimes


def test_terms_of_a_well_known_device_are_found() -> None:
    terms = device(81, level=5.0)
    found = fit_terms(COMPONENTS, POOL[:200], POOL[:200] @ terms)
    unseen = networks(100, seed=9)
    assert unseen @ found == pytest.approx(unseen @ terms, rel=0.03)


def test_components_are_stated_for_an_average_network_that_takes_one() -> None:
    typical = POOL[:, :-1].mean(axis=0)
    assert COMPONENTS["work"][:-1].T @ typical == pytest.approx(np.ones(4))
    assert typical @ np.diag(COMPONENTS["entry_count"][:-1]) == pytest.approx(1.0)
    assert all(len(loading) == len(LAYERS) + 1 for loading in COMPONENTS.values())
    assert all(not loading[-1].any() for name, loading in COMPONENTS.items() if name != "overhead")


def test_variants_of_a_kind_and_dead_layers_are_alike_and_other_kinds_are_not() -> None:
    base = LAYERS[0]
    layers = [base, replace(base, kind="mbconv_se"), replace(base, kind=DEAD + "mbconv"), replace(base, kind="fused")]
    work = work_of([COSTS[0]] * 4)
    smooth = components(layers, work, np.full(4, 0.25))["smooth"][:-1]
    kernel = smooth @ smooth.T
    kernel /= kernel[0, 0]
    assert kernel[0] == pytest.approx([1.0, np.exp(-0.5), np.exp(-0.5), 0.0], abs=1e-6)


def test_intervals_hold_what_a_device_with_two_speeds_takes(prior: FewShotPrior) -> None:
    """Every third result is a sixth slower: no outlier, and nothing that layers explain."""
    rng, truth = np.random.default_rng(4), device(31)
    latency = POOL @ truth * np.where(rng.random(len(POOL)) < 1 / 3, 1.17, 1.0)
    covered = {}
    for number in (20, 50):
        chosen = rng.permutation(len(POOL))[:number]
        rest = np.setdiff1d(np.arange(len(POOL)), chosen)
        mean, std = posterior(prior, POOL[chosen], latency[chosen]).predict(POOL[rest])
        covered[number] = float((np.abs(latency[rest] - mean) <= 1.96 * std).mean())
    assert min(covered.values()) > 0.85, covered
