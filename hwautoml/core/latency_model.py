"""The Gaussian algebra behind a latency table: closed form, numpy only.

Model (n observations, p parameters: one per layer entry and, last, the fixed overhead)::

    y_i = X_i theta + f_i u_s(i) + eps_i     X (n, p) counts, the overhead's column is all ones
    theta ~ N(mu, Sigma)       Sigma = D + F F^T, D diagonal, F (p, r), r << p
    u_s ~ N(0, tau^2)          the level of measuring session s, relative; f_i the expected latency
    eps_i ~ N(0, sigma_i^2 / w_i)

D holds how far each entry may be off on its own. F holds what entries share: one relative
scale for all, one constant per layer, one in proportion to its input and output (a layer
alone pays for changing the layout of both, a layer inside a network does not), one relative
scale per layer kind, per feature-map size, per number of output channels (a multiple of the
vector width leaves the layout as it is) and per shape (the same layer at several resolutions);
for runtimes that read a layer's weights anew at every run, one in proportion to their number:
alone, they stay in the nearest cache.
u is what all results of one session have in common and the reference network cannot divide out:
where it lies in memory, and how much more or less than the others it suffers from a busy machine.
A prediction is about another session.

Posterior in the dual (function-space) form, so that only an (n, n) system is solved
(Rasmussen & Williams 2006, section 2.1; Sigma is never formed)::

    K = X Sigma X^T + tau^2 (f f^T where s is the same) + diag(sigma^2 / w) = L L^T
    G = Sigma X^T L^-T      (p, n)
    theta | y ~ N(mu + G L^-1 (y - X mu),  Sigma - G G^T)

Robustness: each observation, predicted from all others, is Student-t with ``NU`` degrees of
freedom, a scale mixture of normals fitted by EM (Lange, Little & Taylor 1989): with z_i its
standardised leave-one-out residual, its predictive variance grows by (nu + z_i^2) / (nu + 1), and
w_i is what makes it so. The closed form (K^-1 r)_i / (K^-1)_ii of the leave-one-out residual sees
through an observation that pulls the fit towards itself.

Hyper-parameters (the scales of D, F, u and eps) maximise the marginal likelihood
log N(y; X mu, K) (type-II maximum likelihood) plus a weak log-normal prior around their
defaults, by coordinate search over a logarithmic grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.layer import Layer
from hwautoml.errors import InvalidValueError

Array = NDArray[np.float64]

NU = 4.0
MIN_OBSERVATIONS_TO_FIT = 8
#: Relative standard deviation of the level between processes: a profile is one, and cannot tell (docs/measuring.md).
PROCESS_LEVEL = 0.003
NUM_ROBUST_ITERATIONS = 6
_LOG_PRIOR_WIDTH = 1.2  # natural logarithm: a factor of 3 from the default costs half a nat
_GRID_STEPS = np.array([1 / 8, 1 / 4, 1 / 2, 1 / 1.4, 1.0, 1.4, 2.0, 4.0, 8.0])
_NUM_SWEEPS = 2
_FIT_TOLERANCE = 3.0  # beyond 3.3 standard deviations


@dataclass(frozen=True)
class Hyperparameters:
    """Standard deviations, each relative to the mean of what it applies to.

    entry: of one layer alone · scale: of all layers together · constant: of the same number of
    milliseconds on every layer (relative to the mean layer) · kind: of one kind's layers ·
    size: of one feature-map size's layers · width: of layers with the same number of output channels ·
    shape: of layers that differ in their feature-map size only · activation: of each layer in proportion to what it
    reads and writes · weights: of each layer in proportion to its weights, where these are known · overhead: of the
    fixed overhead · residual: of a network's latency that no sum of layers explains · level: of all results of one
    measuring session.
    """

    entry: float = 0.05
    scale: float = 0.15
    constant: float = 0.10
    kind: float = 0.05
    size: float = 0.03
    width: float = 0.03
    shape: float = 0.03
    activation: float = 0.10
    weights: float = 0.10
    overhead: float = 1.0
    residual: float = 0.01
    level: float = 0.005

    def __post_init__(self) -> None:
        for name, value in self.as_dict().items():
            if not 0 < value < 100:
                raise InvalidValueError(f"hyper-parameter {name} must be in (0, 100), got {value!r}")

    def as_dict(self) -> dict[str, float]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


MEASURED_DEFAULTS = Hyperparameters()
# A roofline is right about the order of layers and wrong about the level, by a factor.
ESTIMATED_DEFAULTS = Hyperparameters(
    entry=0.3,
    scale=1.0,
    constant=0.3,
    kind=0.4,
    size=0.2,
    width=0.2,
    shape=0.2,
    activation=0.3,
    overhead=1.0,
    residual=0.03,
)


@dataclass(frozen=True)
class Structure:
    """What does not depend on hyper-parameters.

    ``mean`` (p,) and ``deviation`` (p,) in ms, the overhead last; ``loadings`` maps a
    hyper-parameter's name to its factors (p, r) in ms at a scale of 1.
    """

    mean: Array
    deviation: Array
    loadings: Mapping[str, Array]

    def own_variance(self, hyper: Hyperparameters) -> Array:
        """D's diagonal (p,): the entry's stated deviation and the model's own, independent of each other."""
        relative = np.full(len(self.mean), hyper.entry)
        relative[-1] = hyper.overhead
        return self.deviation**2 + (relative * self.mean) ** 2

    def factors(self, hyper: Hyperparameters) -> Array:
        """F (p, r)."""
        return np.hstack([getattr(hyper, name) * loading for name, loading in self.loadings.items()])


@dataclass(frozen=True)
class Observations:
    """``counts`` (n, p), ``latency_ms`` (n,), ``variance`` (n,) ms^2 known beforehand (repeated measuring).

    ``session`` (n,) is equal where results come from the same measuring session.
    """

    counts: Array
    latency_ms: Array
    variance: Array
    session: NDArray[np.int64]


@dataclass(frozen=True)
class Posterior:
    """theta | y. ``gain`` is G (p, n); ``weights`` (n,) are 1 for trusted observations, near 0 for outliers.

    ``spread`` is the relative standard deviation of a result to come, in another session, around the sum of its layers.
    """

    mean: Array
    own_variance: Array
    factors: Array
    gain: Array
    spread: float
    weights: Array

    def latent(self, counts: Array) -> tuple[Array, Array]:
        """Mean (m,) ms and variance (m,) ms^2 of ``counts @ theta`` for counts (m, p), without the residual."""
        projected = counts @ self._projection  # one pass over counts, which is by far the largest array
        num_factors = self.factors.shape[1]
        squares = np.square(projected[:, 1:])
        shared, explained = squares[:, :num_factors].sum(axis=1), squares[:, num_factors:].sum(axis=1)
        own = np.einsum("mp,mp,p->m", counts, counts, self.own_variance)
        return projected[:, 0], np.maximum(own + shared - explained, 0.0)

    def predict(self, counts: Array) -> tuple[Array, Array]:
        """Mean (m,) and standard deviation (m,) in ms of a measurement's true value."""
        mean, variance = self.latent(counts)
        return mean, np.sqrt(variance + (self.spread * mean) ** 2)

    def covariance(self, counts: Array) -> Array:
        """Latent covariance (m, m) ms^2 between the rows of counts (m, p)."""
        shared, explained = counts @ self.factors, counts @ self.gain
        return (counts * self.own_variance) @ counts.T + shared @ shared.T - explained @ explained.T

    @cached_property
    def _projection(self) -> Array:
        """(p, 1 + r + n)"""
        return np.hstack([self.mean[:, None], self.factors, self.gain])


def structure(
    entries: Mapping[Layer, tuple[float, float]], overhead: tuple[float, float], num_weights: Sequence[int] = ()
) -> Structure:
    """Factors for entries given as (mean, deviation) in ms, in their order; p = len(entries) + 1.

    ``num_weights`` (len(entries),) are those that every run reads anew; none given, no factor is in proportion to them.
    """
    mean = np.array([value[0] for value in entries.values()])
    level = float(mean.mean()) if len(mean) else 1.0
    means = np.append(mean, 0.0)  # no shared factor moves the overhead
    moved = np.array([_activations(layer) for layer in entries])
    relative = moved / max(float(moved.mean()), 1.0) if len(moved) else moved
    read = np.array(num_weights, dtype=np.float64)
    by_weights = {"weights": np.append(level * read / read.mean(), 0.0)[:, None]} if read.any() else {}
    return Structure(
        mean=np.append(mean, overhead[0]),
        deviation=np.append([value[1] for value in entries.values()], overhead[1]),
        loadings={
            "scale": means[:, None],
            "constant": np.append(np.full(len(mean), level), 0.0)[:, None],
            "activation": np.append(level * relative, 0.0)[:, None],
            "kind": means[:, None] * _membership([layer.kind for layer in entries]),
            "size": means[:, None] * _membership([layer.height for layer in entries]),
            "width": means[:, None] * _membership([layer.out_channels for layer in entries]),
            "shape": means[:, None] * _membership([replace(layer, height=1, width=1).key for layer in entries]),
            **by_weights,
        },
    )


def _activations(layer: Layer) -> float:
    """Elements read and written."""
    area = layer.height * layer.width
    return layer.in_channels * area + layer.out_channels * area / layer.stride**2


def _membership(labels: list[str] | list[int]) -> Array:
    """One-hot (k + 1, number of distinct labels); the overhead's row is zero."""
    names, index = np.unique(np.array(labels), return_inverse=True)
    member = np.zeros((len(labels) + 1, len(names)))
    member[np.arange(len(labels)), index] = 1.0
    return member


def expected_ms(prior: Structure, data: Observations) -> Array:
    """(n,) the prior's figures at the level the observations are at (median ratio).

    What noise is relative to: the measured value itself would give an outlier that is too low a tiny, trusted noise.
    """
    sums = data.counts @ prior.mean
    return sums * float(np.median(data.latency_ms / np.maximum(sums, 1e-12))) if len(sums) else sums


def noise_variance(prior: Structure, data: Observations, residual: float) -> Array:
    """(n,) ms^2, each result's own."""
    return data.variance + (residual * expected_ms(prior, data)) ** 2 + 1e-18


def spread(prior: Structure, hyper: Hyperparameters, data: Observations) -> float:
    """Relative: residual, levels of sessions and of processes, and how well a result is usually known (median)."""
    stated = np.sqrt(data.variance) / np.maximum(expected_ms(prior, data), 1e-12)
    usual = np.median(stated) if len(stated) else 0.0
    return float(np.linalg.norm([hyper.residual, hyper.level, PROCESS_LEVEL, usual]))


def shared_noise(prior: Structure, data: Observations) -> Array:
    """(n, n) ms^2: the covariance that sessions' levels add at tau = 1."""
    expected, session = expected_ms(prior, data), data.session
    return np.outer(expected, expected) * (session[:, None] == session[None, :])


def condition(prior: Structure, hyper: Hyperparameters, data: Observations, weights: Array) -> Posterior:
    """The posterior for given weights (n,); with n = 0 it is the prior."""
    own, factors, counts = prior.own_variance(hyper), prior.factors(hyper), data.counts
    if not len(counts):
        empty = np.zeros((len(prior.mean), 0))
        return Posterior(prior.mean, own, factors, empty, spread(prior, hyper, data), np.zeros(0))
    cross = own[:, None] * counts.T + factors @ (factors.T @ counts.T)  # Sigma X^T (p, n)
    noise = hyper.level**2 * shared_noise(prior, data) + np.diag(noise_variance(prior, data, hyper.residual) / weights)
    lower = np.linalg.cholesky(counts @ cross + noise)
    gain = np.linalg.solve(lower, cross.T).T
    mean = prior.mean + gain @ np.linalg.solve(lower, data.latency_ms - counts @ prior.mean)
    return Posterior(mean, own, factors, gain, spread(prior, hyper, data), weights)


def posterior(prior: Structure, hyper: Hyperparameters, data: Observations) -> Posterior:
    """Outlier-robust posterior."""
    return condition(prior, hyper, data, _Evidence(prior, data).robust_weights(hyper))


def fit_hyperparameters(prior: Structure, data: Observations, defaults: Hyperparameters) -> Hyperparameters:
    """``defaults`` below MIN_OBSERVATIONS_TO_FIT observations; deterministic."""
    if len(data.latency_ms) < MIN_OBSERVATIONS_TO_FIT:
        return defaults
    evidence, best = _Evidence(prior, data), defaults
    for _ in range(_NUM_SWEEPS):
        # An outlier must not be explained by a large residual; ordinary scatter must be.
        weights = evidence.robust_weights(best, _FIT_TOLERANCE)
        for name in evidence.names:
            default = getattr(defaults, name)
            options = [replace(best, **{name: float(default * step)}) for step in _GRID_STEPS]
            best = max(options, key=lambda option: evidence.log_posterior(option, defaults, weights))
    return best


class _Evidence:
    """K as a sum of precomputed (n, n) matrices, one per hyper-parameter, so that a grid costs O(n^3) a point."""

    def __init__(self, prior: Structure, data: Observations) -> None:
        counts = data.counts
        self._prior, self._data = prior, data
        self._residuals = data.latency_ms - counts @ prior.mean
        self._stated = (counts * prior.deviation**2) @ counts.T
        entries, overhead = prior.mean**2, np.zeros_like(prior.mean)
        overhead[-1], entries[-1] = entries[-1], 0.0
        self._parts = {"entry": (counts * entries) @ counts.T, "overhead": (counts * overhead) @ counts.T}
        for name, loading in prior.loadings.items():
            shared = counts @ loading
            self._parts[name] = shared @ shared.T
        self._parts["level"] = shared_noise(prior, data)

    @property
    def names(self) -> list[str]:
        """Of the hyper-parameters that this structure has."""
        return [field.name for field in fields(Hyperparameters) if field.name in {*self._parts, "residual"}]

    def kernel(self, hyper: Hyperparameters) -> Array:
        """K (n, n) without what each result has of its own."""
        return self._stated + sum(getattr(hyper, name) ** 2 * part for name, part in self._parts.items())

    def log_posterior(self, hyper: Hyperparameters, defaults: Hyperparameters, weights: Array) -> float:
        noise = noise_variance(self._prior, self._data, hyper.residual)
        lower = np.linalg.cholesky(self.kernel(hyper) + np.diag(noise / weights))
        white = np.linalg.solve(lower, self._residuals)
        likelihood = -0.5 * float(white @ white) - float(np.log(np.diag(lower)).sum())
        default = defaults.as_dict()
        shift = [np.log(value / default[name]) / _LOG_PRIOR_WIDTH for name, value in hyper.as_dict().items()]
        return likelihood - 0.5 * float(np.square(shift).sum())

    def robust_weights(self, hyper: Hyperparameters, tolerance: float = 1.0) -> Array:
        noise = noise_variance(self._prior, self._data, hyper.residual)
        return student_weights(self.kernel(hyper), noise, self._residuals, tolerance)


def student_weights(latent: Array, noise: Array, residuals: Array, tolerance: float = 1.0) -> Array:
    """Student-t weights (n,) in (0, 1]; ``tolerance`` above 1 doubts only what is more surprising than that.

    ``latent`` (n, n) covariance of the true values, ``noise`` (n,) variances, ``residuals`` (n,) from the prior mean.
    """
    weights = np.ones(len(residuals))
    for _ in range(NUM_ROBUST_ITERATIONS if len(weights) else 0):
        inverse = np.linalg.inv(latent + np.diag(noise / weights))
        left_out_variance = 1.0 / np.diag(inverse)
        left_out_residual = (inverse @ residuals) * left_out_variance
        # The variance an untainted observation would have, seen from all others.
        clean = np.maximum(left_out_variance - noise / weights, 0.0) + noise
        surprise = (NU + left_out_residual**2 / clean) / (NU + 1)
        weights = noise / (noise + clean * np.maximum(surprise - tolerance, 0.0))
    return weights
