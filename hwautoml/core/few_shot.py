"""Latency of a device from a handful of measurements, given devices that are known.

Model. What a device takes for its terms (layers and overhead, last), relative to its own level, is::

    theta / level = m + sum_j a_j W_j z_j        z_j ~ N(0, I)

with m the siblings' mean and components W_j: ``scale`` (m itself), ``sibling`` (what sets each sibling apart
from m, so that their sample covariance is part of the prior) and those of ``latency_components``. A measured
network is ``level * (x theta + eps)``, x its counts, eps normal with a deviation in proportion to x m.

Learning. Each sibling in turn plays the new device, with the siblings of other families known, and the
amplitudes a_j and the noise are those that make its measurements most likely (``variance_components``). This gives
one *regime* for all siblings together and one per sibling (the others count a little), as devices differ in kind
and not only in degree: simulators are exact sums, phones are noisy, GPUs are bound by launches. One more regime is
learnt with siblings of the same family known, for a device that has a close relative among them.

A new device takes the regime under which its own measurements are most likely (empirical Bayes over few, learnt
settings instead of many free ones: ten measurements cannot fit fifteen amplitudes), at a third, once or three times
its noise. The posterior is then in closed form, outliers weigh less (Student-t), and its variances say what to
measure next. The level is the median ratio of measured to expected. Results to come are as noisy as all settings say,
each by its likelihood, and Student-t too; and at least as noisy as those measured were, each predicted from all others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hwautoml.core import variance_components
from hwautoml.core.latency_model import NU, Posterior, student_weights
from hwautoml.core.variance_components import Task
from hwautoml.errors import InvalidValueError

Array = NDArray[np.float64]

DIAGONAL = ("entry", "entry_count")  # components that move each term on its own
_NETWORKS_PER_TASK = 150
_MIN_FAMILIES = 3
_MIN_NETWORKS = 10  # of a sibling that others are compared with
_SHARED_STEPS, _OWN_STEPS, _DEVICE_STEPS = 60, 30, 30
_OTHERS_WEIGHT = 0.05  # of every other sibling in one sibling's regime
_NOISE_FACTORS = (0.3, 1.0, 3.0)
_MIN_SCALE_VARIANCE = 0.02**2
_MIN_RELATIVE = 0.25  # a near-empty network is not measured more exactly than one of a quarter of the median
_MOST_NOISE, _NOISE_STEPS = 400.0, 121
_IMAGINED, _WILD = 3, 9.0  # results; squares of three standard deviations
_DOUBTED_LEVEL = 0.5  # relative deviation of the level while nothing is measured


@dataclass(frozen=True)
class Sibling:
    """A known device: ``terms_ms`` (p,), and networks measured on it as ``counts`` (n, p) and ``latency_ms`` (n,).

    Devices of one ``family`` are so much alike that knowing one says little about how well siblings predict others.
    """

    name: str
    family: str
    terms_ms: Array
    counts: Array
    latency_ms: Array


@dataclass(frozen=True)
class Regime:
    """At level 1: each component's variance by name, and the squared Student-t scale of an average network's noise."""

    amplitudes: Mapping[str, float]
    noise: float


@dataclass(frozen=True)
class FewShotPrior:
    """``shares`` (S, p): the siblings' terms at level 1; ``components`` name to (p, r); the first regime is shared.

    ``level_ms`` is what the average network takes on a typical sibling.
    """

    components: Mapping[str, Array]
    shares: Array
    level_ms: float
    regimes: tuple[Regime, ...]

    @cached_property
    def mean(self) -> Array:
        """(p,)"""
        return self.shares.mean(axis=0)

    @cached_property
    def loadings(self) -> dict[str, Array]:
        """W_j (p, r_j) by name, ``scale`` and ``sibling`` included."""
        return _with_siblings(self.components, self.shares)


# For siblings too few to learn from: set by hand, of the size learnt on published devices (docs/latency_model.md).
TYPICAL = Regime(
    amplitudes={
        "scale": 0.2**2,
        "sibling": 0.5**2,
        "overhead": 0.15**2,
        "work": 0.1**2,
        "operator": 0.05**2,
        "operator_bytes": 0.05**2,
        "kind": 0.05**2,
        "shape": 0.1**2,
        "shape_work": 0.08**2,
        "size": 0.1**2,
        "size_work": 0.1**2,
        "smooth": 0.05**2,
        "wide": 0.05**2,
        "wide_count": 0.15**2,
        "entry": 0.01**2,
        "entry_count": 0.01**2,
    },
    noise=0.02**2,
)


def fit_terms(components: Mapping[str, Array], counts: Array, latency_ms: Array) -> Array:
    """What each term takes (p,) ms on a device of which many networks are measured, (n, p) and (n,)."""
    level = float(np.median(latency_ms))
    deviation, kernels = latency_ms / level - 1.0, _kernels(components, counts)
    task = Task(kernels, deviation, np.ones(len(deviation)))
    amplitudes, noises = variance_components.fit([task], np.ones(1), num_steps=_DEVICE_STEPS)
    latent, noise = np.tensordot(amplitudes, kernels, 1), np.full(len(deviation), noises[0])
    weights = student_weights(latent, noise, deviation)
    pulled = counts.T @ np.linalg.solve(latent + np.diag(noise / weights), deviation)
    theta = sum(a * (w @ (w.T @ pulled)) for a, w in zip(amplitudes, components.values(), strict=True))
    theta[-1] += 1.0  # deviations are from a device that takes the same for everything
    return np.asarray(level * theta)


def learn(components: Mapping[str, Array], siblings: Sequence[Sibling], *, seed: int = 0) -> FewShotPrior:
    """The prior that the siblings make; with fewer than three well-measured families its amplitudes are ``TYPICAL``.

    Raises:
        InvalidValueError: no sibling.
    """
    if not siblings:
        raise InvalidValueError("a few-shot prior needs at least one sibling")
    levels = np.array([float(np.median(s.counts @ s.terms_ms)) for s in siblings])
    shares = np.array([s.terms_ms / level for s, level in zip(siblings, levels, strict=True)])
    level_ms = float(np.exp(np.log(levels).mean()))
    families = [sibling.family for sibling in siblings]
    teachers = [(number, s) for number, s in enumerate(siblings) if len(s.counts) >= _MIN_NETWORKS]
    if len({sibling.family for _, sibling in teachers}) < _MIN_FAMILIES:
        return FewShotPrior(components, shares, level_ms, (TYPICAL,))
    unrelated, others = np.random.default_rng(seed), np.random.default_rng(seed)
    far = [_task(components, shares[[f != s.family for f in families]], s, unrelated) for _, s in teachers]
    near = [_task(components, np.delete(shares, number, axis=0), s, others) for number, s in teachers]
    names = ["scale", "sibling", *components]
    return FewShotPrior(components, shares, level_ms, (*_regimes(names, far), _shared_regime(names, near)[0]))


def posterior(prior: FewShotPrior, counts: Array, latency_ms: Array, variance: Array | None = None) -> Posterior:
    """Of the device's terms in ms, given networks (n, p) that took (n,) ms; with n = 0 the prior at its level.

    ``variance`` (n,) ms^2 is what is known of each result's own error.
    """
    loadings, expected = prior.loadings, counts @ prior.mean
    if not len(counts):
        regime = prior.regimes[0]
        doubted = dict(regime.amplitudes, scale=_DOUBTED_LEVEL**2)
        return _condition(prior, Regime(doubted, regime.noise), prior.level_ms, counts, np.zeros(0), np.zeros(0))
    level = float(np.median(latency_ms / np.maximum(expected, 1e-9)))
    deviation, pattern = latency_ms / level - expected, _noise_pattern(expected)
    stated = np.zeros(len(deviation)) if variance is None else variance / level**2
    kernels = _kernels(loadings, counts)
    tried = [
        _tried(Regime(regime.amplitudes, factor * regime.noise), loadings, kernels, deviation, pattern, stated)
        for regime in prior.regimes
        for factor in _NOISE_FACTORS
    ]
    evidence = np.array([each[0] for each in tried])
    _, best, noise = tried[int(np.argmax(evidence))]
    likely = np.exp(evidence - evidence.max())
    future = float(likely @ [regime.noise for _, regime, _ in tried] / likely.sum()) * NU / (NU - 2)
    found = _condition(prior, best, level, counts, deviation, noise)
    left_out = _left_out(best, loadings, kernels, deviation, noise)
    return replace(found, spread=float(np.sqrt(_at_least_seen(future, *left_out, expected))))


def _tried(
    regime: Regime, loadings: Mapping[str, Array], kernels: Array, deviation: Array, pattern: Array, stated: Array
) -> tuple[float, Regime, Array]:
    """Log evidence, the regime, and the noise variance (n,) of each result with what is doubted of outliers.

    Doubting a result has its price: the Gamma(nu/2, nu/2) density of its weight, by which normal noise is Student-t.
    """
    latent, noise = np.tensordot(_amplitudes(regime, loadings), kernels, 1), regime.noise * pattern + stated
    weights = student_weights(latent, noise, deviation)
    price = float(((NU / 2 - 1) * np.log(weights) - NU / 2 * (weights - 1)).sum())
    return variance_components.log_evidence(latent, noise / weights, deviation) + price, regime, noise / weights


def _left_out(
    regime: Regime, loadings: Mapping[str, Array], kernels: Array, deviation: Array, noise: Array
) -> tuple[Array, Array]:
    """Squared residual (n,) of each result predicted from all others, and the variance (n,) of its noiseless value."""
    inverse = np.linalg.inv(np.tensordot(_amplitudes(regime, loadings), kernels, 1) + np.diag(noise))
    variance = 1.0 / np.diag(inverse)
    return np.square((inverse @ deviation) * variance), np.maximum(variance - noise, 0.0)


def _at_least_seen(future: float, squares: Array, latent: Array, expected: Array) -> float:
    """``future``, the relative noise variance of results to come, or as much more as the results left out ask for.

    Weighing outliers down keeps them out of the noise; where they are no outliers but every third result (a device
    with two speeds), the interval would be too narrow. What is left out should have a mean square of 1, standardised;
    a few imagined results that do, and a limit for wild ones, keep that from following chance.
    """
    steps = future * np.geomspace(1.0, _MOST_NOISE, _NOISE_STEPS)
    standardised = squares / (latent + steps[:, None] * np.square(expected))
    mean = (_IMAGINED + np.minimum(standardised, _WILD).sum(axis=1)) / (_IMAGINED + len(squares))
    return float(steps[min(int((mean > 1.0).sum()), len(steps) - 1)])


def _condition(
    prior: FewShotPrior, regime: Regime, level: float, counts: Array, deviation: Array, noise: Array
) -> Posterior:
    """In ms; ``deviation`` and ``noise`` (n,) are at level 1."""
    loadings, variances = prior.loadings, _amplitudes(regime, prior.loadings)
    named = dict(zip(loadings, variances, strict=True))
    own = np.sum([named[name] * np.square(np.diag(loadings[name][:-1])) for name in DIAGONAL], axis=0)
    own_variance = np.append(own, 0.0)
    factors = np.hstack([np.sqrt(named[name]) * loadings[name] for name in loadings if name not in DIAGONAL])
    cross = own_variance[:, None] * counts.T + factors @ (factors.T @ counts.T)
    lower = np.linalg.cholesky(counts @ cross + np.diag(noise))
    gain = np.linalg.solve(lower, cross.T).T
    mean = prior.mean + gain @ np.linalg.solve(lower, deviation)
    trust = regime.noise * _noise_pattern(counts @ prior.mean) / np.maximum(noise, 1e-300)
    return Posterior(
        level * mean,
        level**2 * own_variance,
        level * factors,
        level * gain,
        float(np.sqrt(regime.noise)),
        np.minimum(trust, 1.0),
    )


def _task(components: Mapping[str, Array], known: Array, sibling: Sibling, rng: np.random.Generator) -> Task:
    """``sibling`` as the new device, the ``known`` shares (k, p) as its siblings."""
    chosen = rng.permutation(len(sibling.counts))[:_NETWORKS_PER_TASK]
    counts, latency_ms = sibling.counts[chosen], sibling.latency_ms[chosen]
    expected = counts @ known.mean(axis=0)
    level = float(np.median(latency_ms / np.maximum(expected, 1e-9)))
    kernels = _kernels(_with_siblings(components, known), counts)
    return Task(kernels, latency_ms / level - expected, _noise_pattern(expected))


def _regimes(names: Sequence[str], tasks: Sequence[Task]) -> tuple[Regime, ...]:
    """The shared one, then each task's own."""
    shared, start = _shared_regime(names, tasks)
    found = [shared]
    for number in range(len(tasks)):
        weights = np.where(np.arange(len(tasks)) == number, 1.0, _OTHERS_WEIGHT)
        own, noises = variance_components.fit(tasks, weights, num_steps=_OWN_STEPS, start=start)
        found.append(_named(names, own, noises[number]))
    return tuple(found)


def _shared_regime(names: Sequence[str], tasks: Sequence[Task]) -> tuple[Regime, tuple[Array, Array]]:
    """And what it is made of: variances (J,), noises (num_tasks,)."""
    shared, noises = variance_components.fit(tasks, np.ones(len(tasks)), num_steps=_SHARED_STEPS)
    return _named(names, shared, float(np.exp(np.log(noises).mean()))), (shared, noises)


def _named(names: Sequence[str], variances: Array, noise: float) -> Regime:
    return Regime(dict(zip(names, map(float, variances), strict=True)), float(noise))


def _with_siblings(components: Mapping[str, Array], shares: Array) -> dict[str, Array]:
    mean = shares.mean(axis=0)
    apart = (shares - mean).T / np.sqrt(max(len(shares) - 1, 1))
    return {"scale": mean[:, None], "sibling": apart, **components}


def _kernels(loadings: Mapping[str, Array], counts: Array) -> Array:
    """(J, n, n)"""
    projected = [counts @ loading for loading in loadings.values()]
    return np.array([each @ each.T for each in projected])


def _amplitudes(regime: Regime, loadings: Mapping[str, Array]) -> Array:
    """(J,); the level was only estimated, so that its variance never vanishes."""
    variances = np.array([regime.amplitudes[name] for name in loadings])
    variances[list(loadings).index("scale")] = max(regime.amplitudes["scale"], _MIN_SCALE_VARIANCE)
    return variances


def _noise_pattern(expected: Array) -> Array:
    """Relative variance (n,) of measurements: their deviation grows with what is measured."""
    if not len(expected):
        return expected
    return np.square(np.maximum(expected / np.median(expected), _MIN_RELATIVE))
