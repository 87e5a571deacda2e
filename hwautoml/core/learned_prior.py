"""The few-shot prior of a latency table: what its file keeps of the siblings, and the model made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.few_shot import FewShotPrior, Regime, Sibling, learn
from hwautoml.core.latency_components import Work, components, work_of
from hwautoml.core.layer import Layer, LayerCost
from hwautoml.errors import InvalidValueError

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LearnedPrior:
    """For a table whose entries are ``layers`` in this order.

    ``shares`` (siblings, layers + 1) and ``level_ms`` as in ``few_shot.FewShotPrior``; ``work`` and ``typical_counts``
    (layers,) are what its components are made from.
    """

    layers: tuple[Layer, ...]
    work: Work
    typical_counts: Array
    shares: Array
    level_ms: float
    regimes: tuple[Regime, ...]

    def __post_init__(self) -> None:
        size = len(self.layers)
        known = [len(getattr(self.work, field.name)) for field in fields(self.work)]
        if {*known, len(self.typical_counts)} != {size} or self.shares.shape[1:] != (size + 1,):
            raise InvalidValueError(f"a learned prior of {size} layers needs as many of everything, got {known}")
        if not (self.regimes and self.level_ms > 0 and np.isfinite(self.shares).all()):
            raise InvalidValueError("a learned prior needs regimes, a positive level and finite shares")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LearnedPrior) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]  # arrays have none either

    @cached_property
    def few_shot(self) -> FewShotPrior:
        found = components(self.layers, self.work, self.typical_counts)
        return FewShotPrior(found, self.shares, self.level_ms, self.regimes)

    def to_json(self) -> dict[str, Any]:
        return {
            "layers": [layer.key for layer in self.layers],
            "work": {field.name: getattr(self.work, field.name).tolist() for field in fields(self.work)},
            "typical_counts": self.typical_counts.tolist(),
            "shares": self.shares.tolist(),
            "level_ms": self.level_ms,
            "regimes": [{"amplitudes": dict(r.amplitudes), "noise": r.noise} for r in self.regimes],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LearnedPrior:
        """Raises InvalidValueError, KeyError, TypeError or ValueError for what ``to_json`` did not write."""
        work = Work(**{name: np.array(values, dtype=np.float64) for name, values in data["work"].items()})
        regimes = tuple(
            Regime({str(k): float(v) for k, v in each["amplitudes"].items()}, float(each["noise"]))
            for each in data["regimes"]
        )
        return cls(
            tuple(Layer.from_key(key) for key in data["layers"]),
            work,
            np.array(data["typical_counts"], dtype=np.float64),
            np.array(data["shares"], dtype=np.float64),
            float(data["level_ms"]),
            regimes,
        )


def learned_prior(
    layers: Sequence[Layer], cost: Callable[[Layer], LayerCost], siblings: Sequence[Sibling]
) -> LearnedPrior:
    """From siblings whose terms are the layers' times and the overhead; the average network is that of theirs."""
    work = work_of([cost(layer) for layer in layers])
    typical = np.vstack([sibling.counts for sibling in siblings])[:, :-1].mean(axis=0)
    prior = learn(components(layers, work, typical), siblings)
    return LearnedPrior(tuple(layers), work, typical, prior.shares, prior.level_ms, prior.regimes)
