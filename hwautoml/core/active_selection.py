"""Which networks to measure next: those that would teach a latency model most about all candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.latency_model import Posterior
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.layer import Layer
from hwautoml.errors import InvalidValueError

Array = NDArray[np.float64]
Criterion = Literal["alc", "variance"]
_MIN_WEIGHED = 0.05  # of the median: near-empty networks don't decide what is measured


def choose_to_measure(
    table: LatencyTable, candidates: Sequence[Sequence[Layer]], num: int, *, criterion: Criterion = "alc"
) -> tuple[int, ...]:
    """Indices of ``num`` candidates (given by their layers) to measure, most informative first; see ``choose_rows``.

    Raises:
        InvalidValueError: more are asked for than there are candidates, or a layer has no entry.
    """
    counts, doubt = table.design(candidates)
    return choose_rows(table.posterior, counts, num, doubt=doubt, criterion=criterion)


def choose_rows(
    posterior: Posterior, counts: Array, num: int, *, doubt: Array | None = None, criterion: Criterion = "alc"
) -> tuple[int, ...]:
    """Rows of ``counts`` (m, p) to measure, most informative first; ``doubt`` (m,) ms^2 is added to their noise.

    Greedy: "alc" reduces the mean relative predictive variance over all candidates most (Cohn 1996, active
    learning Cohn), "variance" takes the largest one (MacKay 1992). Relative, because errors are: in ms^2 the
    largest networks would be chosen, which teach little about small ones (worse than at random, when measured).
    Variances do not depend on measured values, so the whole sequence is known before anything is measured.

    Raises:
        InvalidValueError: more are asked for than there are candidates.
    """
    if not 0 <= num <= len(counts):
        raise InvalidValueError(f"cannot choose {num} of {len(counts)} candidates")
    if not num:
        return ()
    means, _ = posterior.latent(counts)
    means = np.maximum(means, _MIN_WEIGHED * np.median(means))
    noise = (posterior.spread * means) ** 2 + (0.0 if doubt is None else doubt) + 1e-18
    covariance = posterior.covariance(counts)
    weights = 1 / means**2
    chosen: list[int] = []
    for _ in range(num):
        variance = np.maximum(np.diag(covariance), 0.0)
        explained = weights @ np.square(covariance) / (variance + noise)
        gain = explained if criterion == "alc" else variance
        gain[chosen] = -np.inf
        best = int(np.argmax(gain))
        chosen.append(best)
        column = covariance[:, best].copy()
        covariance = covariance - np.outer(column, column) / (column[best] + noise[best])
    return tuple(chosen)
