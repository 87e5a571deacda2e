from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hwautoml.core import latency_model as model
from hwautoml.core.layer import Layer

HYPER = model.Hyperparameters()


def problem(seed: int, num_entries: int, num_observations: int) -> tuple[model.Structure, model.Observations]:
    rng = np.random.default_rng(seed)
    entries = {
        Layer(f"kind{i % 3}", 8, size, size, 8 + i): (float(rng.uniform(0.1, 1)), float(rng.uniform(0, 0.1)))
        for i, size in zip(range(num_entries), itertools.cycle((4, 8)))
    }
    prior = model.structure(entries, (0.05, 0.01))
    counts = np.hstack([rng.integers(0, 3, (num_observations, num_entries)), np.ones((num_observations, 1))])
    latency = (counts @ prior.mean) * rng.lognormal(0, 0.05, num_observations)
    session = rng.integers(0, 3, num_observations)
    return prior, model.Observations(counts, latency, (0.01 * latency) ** 2, session)


def dense(prior: model.Structure, data: model.Observations, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The textbook formula: information form with Sigma written out."""
    factors = prior.factors(HYPER)
    sigma = np.diag(prior.own_variance(HYPER)) + factors @ factors.T
    noise = np.diag(model.noise_variance(prior, data, HYPER.residual) / weights)
    exact = np.linalg.inv(noise + HYPER.level**2 * model.shared_noise(prior, data))
    precision = np.linalg.inv(sigma) + data.counts.T @ exact @ data.counts
    covariance = np.linalg.inv(precision)
    information = np.linalg.inv(sigma) @ prior.mean + data.counts.T @ exact @ data.latency_ms
    return covariance @ information, covariance


problems = st.builds(problem, st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 10))


@given(problems)
@settings(max_examples=40, deadline=None)
def test_dual_form_is_the_dense_textbook_formula(case: tuple[model.Structure, model.Observations]) -> None:
    prior, data = case
    weights = np.random.default_rng(0).uniform(0.2, 1, len(data.latency_ms))
    posterior = model.condition(prior, HYPER, data, weights)
    mean, covariance = dense(prior, data, weights)
    counts = np.random.default_rng(1).integers(0, 3, (5, len(mean))).astype(float)
    found_mean, found_variance = posterior.latent(counts)
    np.testing.assert_allclose(posterior.mean, mean, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found_mean, counts @ mean, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found_variance, np.diag(counts @ covariance @ counts.T), rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(posterior.covariance(counts), counts @ covariance @ counts.T, rtol=1e-4, atol=1e-9)


@given(problems)
@settings(max_examples=40, deadline=None)
def test_more_observations_never_widen(case: tuple[model.Structure, model.Observations]) -> None:
    prior, data = case
    counts = np.random.default_rng(1).integers(0, 3, (5, len(prior.mean))).astype(float)
    before = np.inf
    # At the prior's own level: the noise assumed of earlier observations follows the typical level.
    exact = data.counts @ prior.mean
    for num in range(len(data.latency_ms) + 1):
        part = model.Observations(data.counts[:num], exact[:num], data.variance[:num], data.session[:num])
        _, variance = model.condition(prior, HYPER, part, np.ones(num)).latent(counts)
        assert np.all(variance <= before + 1e-9)
        before = variance


@given(problems)
@settings(max_examples=20, deadline=None)
def test_without_observations_the_prior_comes_back(case: tuple[model.Structure, model.Observations]) -> None:
    prior, data = case
    none = model.Observations(data.counts[:0], data.latency_ms[:0], data.variance[:0], data.session[:0])
    posterior = model.posterior(prior, HYPER, none)
    factors = prior.factors(HYPER)
    sigma = np.diag(prior.own_variance(HYPER)) + factors @ factors.T
    mean, variance = posterior.latent(data.counts)
    np.testing.assert_allclose(mean, data.counts @ prior.mean)
    np.testing.assert_allclose(variance, np.diag(data.counts @ sigma @ data.counts.T), rtol=1e-9)


def test_hyperparameters_find_quiet_and_noisy_data() -> None:
    rng = np.random.default_rng(0)
    prior, data = problem(3, 12, 40)
    exact = data.counts @ prior.mean
    for noise, low, high in ((0.002, 0.0, 0.011), (0.08, 0.04, 0.2)):
        latency = exact * rng.lognormal(0, noise, len(exact))
        noisy = model.Observations(data.counts, latency, 0 * exact, np.arange(40))
        found = model.fit_hyperparameters(prior, noisy, HYPER)
        assert low < np.hypot(found.residual, found.level) < high  # every session has one result: the two are one


def test_few_observations_keep_the_defaults() -> None:
    prior, data = problem(3, 12, model.MIN_OBSERVATIONS_TO_FIT - 1)
    assert model.fit_hyperparameters(prior, data, HYPER) == HYPER


def test_only_the_wild_observation_is_doubted() -> None:
    prior, data = problem(5, 12, 20)
    wild = data.latency_ms.copy()
    wild[7] *= 5
    weights = model.posterior(prior, HYPER, model.Observations(data.counts, wild, data.variance, data.session)).weights
    assert np.argmin(weights) == 7
    assert weights[7] < 0.02
    assert np.median(np.delete(weights, 7)) > 0.5


def test_what_a_session_has_in_common_is_told_from_what_each_result_has() -> None:
    """Sessions whose levels differ by 4 % teach the level, and that a prediction is no better than a session."""
    rng = np.random.default_rng(0)
    prior, data = problem(3, 12, 60)
    session = np.arange(60) // 6
    latency = data.counts @ prior.mean * np.exp(rng.normal(0, 0.04, 10)[session] + rng.normal(0, 0.003, 60))
    found = model.fit_hyperparameters(prior, model.Observations(data.counts, latency, 0 * latency, session), HYPER)
    assert 0.02 < found.level < 0.07
    assert found.residual < 0.012
    posterior = model.posterior(prior, found, model.Observations(data.counts, latency, 0 * latency, session))
    means, stds = posterior.predict(data.counts)
    assert np.all(stds > 0.02 * means)


def test_what_weights_cost_within_a_network_is_learnt_where_they_are_known() -> None:
    """Layers alone took what they take, less a share in proportion to their weights, which differ a hundredfold."""
    rng = np.random.default_rng(0)
    layers = [Layer(f"kind{i % 3}", 8, (4, 8)[i % 2], 8, 8 + i) for i in range(40)]
    num_weights = [int(n) for n in 10 ** rng.uniform(2, 4, 40)]
    alone = {layer: (float(rng.uniform(0.1, 0.2)), 0.002) for layer in layers}
    within = np.append(np.array([mean for mean, _ in alone.values()]) + 1e-5 * np.array(num_weights), 0.05)
    counts = np.hstack([rng.integers(0, 2, (60, 40)), np.ones((60, 1))])
    latency = counts @ within * rng.lognormal(0, 0.005, 60)
    errors = {}
    for name, known in {"without": (), "with": num_weights}.items():
        prior = model.structure(alone, (0.05, 0.01), known)
        data = model.Observations(counts[:20], latency[:20], (0.005 * latency[:20]) ** 2, np.zeros(20, dtype=np.int64))
        hyper = model.fit_hyperparameters(prior, data, HYPER)
        means, _ = model.posterior(prior, hyper, data).predict(counts[20:])
        errors[name] = float(np.abs(means / latency[20:] - 1).mean())
    assert errors["with"] < 0.01
    assert errors["without"] > 2 * errors["with"]


def test_without_weights_their_hyperparameter_is_inert() -> None:
    prior, data = problem(3, 12, 40)
    found = model.fit_hyperparameters(prior, data, HYPER)
    assert found.weights == HYPER.weights
    means, stds = model.posterior(prior, found, data).predict(data.counts)
    others = model.posterior(prior, replace(found, weights=9.0), data).predict(data.counts)
    assert np.array_equal(means, others[0]) and np.array_equal(stds, others[1])
