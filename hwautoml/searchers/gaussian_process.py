"""A Gaussian process over architectures for a few dozen noisy accuracies; numpy only."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Shares = tuple[float, float, float]

# Weights of the kernel's three parts: linear in the analytic features, linear in the one-hot
# options, and a smooth one over everything. The marginal likelihood picks.
SHARES: tuple[Shares, ...] = (
    (0.8, 0.1, 0.1),
    (0.6, 0.3, 0.1),
    (0.4, 0.4, 0.2),
    (0.3, 0.6, 0.1),
    (0.1, 0.8, 0.1),
    (0.3, 0.2, 0.5),
)
NOISES = (0.003, 0.02, 0.1, 0.3, 0.8)


@dataclass(frozen=True)
class GaussianProcess:
    """Posterior in the units of the targets; ``inputs`` (n, num_features) are standardised."""

    inputs: Floats
    center: Floats
    scale: Floats
    num_analytic: int
    offset: float
    spread: float
    shares: Shares
    weights: Floats
    inverse: Floats

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation, both (m,), for ``features`` (m, num_features)."""
        new = (features - self.center) / self.scale
        cross = _kernel(new, self.inputs, self.num_analytic, self.shares)
        prior = _kernel_diagonal(new, self.num_analytic, self.shares)
        variance = prior - ((cross @ self.inverse) * cross).sum(1)
        return self.offset + self.spread * cross @ self.weights, self.spread * np.sqrt(np.maximum(variance, 1e-12))


def fit(features: Floats, targets: Floats, num_analytic: int) -> GaussianProcess:
    """``features`` (n, num_features), the first ``num_analytic`` of them analytic; ``targets`` (n,)."""
    center, scale = features.mean(0), features.std(0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    inputs = (features - center) / scale
    offset, spread = float(targets.mean()), float(max(targets.std(), 1e-6))
    standard = (targets - offset) / spread
    best: tuple[float, Shares, Floats] | None = None
    for shares, noise in itertools.product(SHARES, NOISES):
        covariance = _kernel(inputs, inputs, num_analytic, shares) + (noise + 1e-8) * np.eye(len(inputs))
        factor = np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
        whitened = np.linalg.solve(factor, standard)
        evidence = -0.5 * float(whitened @ whitened) - float(np.log(np.diag(factor)).sum())
        if best is None or evidence > best[0]:
            best = (evidence, shares, factor)
    assert best is not None
    inverse_factor = np.linalg.inv(best[2])
    inverse = inverse_factor.T @ inverse_factor
    return GaussianProcess(inputs, center, scale, num_analytic, offset, spread, best[1], inverse @ standard, inverse)


def _kernel(a: Floats, b: Floats, num_analytic: int, shares: Shares) -> Floats:
    analytic = a[:, :num_analytic] @ b[:, :num_analytic].T / num_analytic
    options = a[:, num_analytic:] @ b[:, num_analytic:].T / (a.shape[1] - num_analytic)
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    smooth = np.exp(-0.5 * np.maximum(squared, 0.0) / a.shape[1])
    return shares[0] * analytic + shares[1] * options + shares[2] * smooth


def _kernel_diagonal(a: Floats, num_analytic: int, shares: Shares) -> Floats:
    return shares[0] * (a[:, :num_analytic] ** 2).mean(1) + shares[1] * (a[:, num_analytic:] ** 2).mean(1) + shares[2]
