import numpy as np
import pytest

from hwautoml.searchers.gaussian_process import fit

NUM_ANALYTIC = 2


def features(rng: np.random.Generator, count: int) -> np.ndarray:
    """Two analytic columns, then one-hot options of two choices with three options each."""
    one_hot = np.hstack([np.eye(3)[rng.integers(0, 3, count)] for _ in range(2)])
    return np.hstack([rng.normal(5, 2, (count, NUM_ANALYTIC)), one_hot])


def linear(x: np.ndarray) -> np.ndarray:
    return 0.7 + 0.02 * x[:, 0] - 0.01 * x[:, 1]


def test_a_linear_function_is_recovered() -> None:
    rng = np.random.default_rng(0)
    train, test = features(rng, 40), features(rng, 200)
    mean, deviation = fit(train, linear(train), NUM_ANALYTIC).predict(test)
    assert np.abs(mean - linear(test)).max() < 0.15 * linear(test).std()
    assert np.all(deviation > 0) and deviation.shape == mean.shape == (200,)


def test_options_count_as_well() -> None:
    rng = np.random.default_rng(0)
    weights = np.array([0.0, 0.0, 0.1, -0.1, 0.05, 0.0, 0.2, -0.2])
    train, test = features(rng, 40), features(rng, 200)
    mean, _ = fit(train, train @ weights, NUM_ANALYTIC).predict(test)
    assert np.corrcoef(mean, test @ weights)[0, 1] > 0.98


def test_noise_is_not_followed() -> None:
    rng = np.random.default_rng(0)
    train, test = features(rng, 60), features(rng, 200)
    noisy = linear(train) + rng.normal(0, linear(train).std(), 60)
    mean, _ = fit(train, noisy, NUM_ANALYTIC).predict(test)
    assert np.abs(mean - linear(test)).mean() < 0.6 * np.abs(noisy - linear(train)).mean()


def test_the_deviation_grows_away_from_the_data() -> None:
    rng = np.random.default_rng(0)
    train = features(rng, 40)
    model = fit(train, linear(train) + rng.normal(0, 0.005, 40), NUM_ANALYTIC)
    away = train.mean(0) + np.outer([0.0, 2.0, 4.0, 8.0], [2.0, 2.0, 0, 0, 0, 0, 0, 0])
    deviation = model.predict(away)[1]
    assert np.all(np.diff(deviation) > 0)
    assert model.predict(train)[1].mean() < 0.5 * deviation[-1]


def test_more_data_makes_it_surer() -> None:
    rng = np.random.default_rng(0)
    test = features(rng, 20)
    few, many = (
        fit(train, linear(train) + rng.normal(0, 0.005, len(train)), NUM_ANALYTIC).predict(test)[1].mean()
        for train in (features(rng, 6), features(rng, 80))
    )
    assert many < 0.5 * few


def test_predictions_follow_the_targets_units() -> None:
    rng = np.random.default_rng(0)
    train, test = features(rng, 30), features(rng, 10)
    mean, deviation = fit(train, linear(train), NUM_ANALYTIC).predict(test)
    scaled_mean, scaled_deviation = fit(train, 100 * linear(train) + 7, NUM_ANALYTIC).predict(test)
    np.testing.assert_allclose(scaled_mean, 100 * mean + 7)
    np.testing.assert_allclose(scaled_deviation, 100 * deviation)


@pytest.mark.parametrize("value", [0.0, 0.93])
def test_equal_targets_are_no_problem(value: float) -> None:
    rng = np.random.default_rng(0)
    train = features(rng, 8)
    mean, deviation = fit(train, np.full(8, value), NUM_ANALYTIC).predict(features(rng, 5))
    np.testing.assert_allclose(mean, value, atol=1e-6)
    assert np.isfinite(deviation).all()


def test_repeated_rows_are_no_problem() -> None:
    rng = np.random.default_rng(0)
    train = np.repeat(features(rng, 6), 3, axis=0)
    mean, _ = fit(train, np.tile([0.1, 0.2, 0.3], 6), NUM_ANALYTIC).predict(train)
    np.testing.assert_allclose(mean, 0.2, atol=0.03)
