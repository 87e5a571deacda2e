"""A synthetic stand-in for a trained supernet and a latency table: cheap, noisy, with something to find."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from hwautoml.core.space import Architecture
from hwautoml.searchers.problem import SearchProblem
from hwautoml.spaces.mobile import MobileSpace

SPACE = MobileSpace(32, 3, 10)
# Milliseconds per million multiply-accumulates: dense blocks are cheap on this device, depthwise ones are not.
MS_PER_MMAC = {"mbconv": 0.3, "mbconv_se": 0.35, "fused": 0.05, "basic": 0.06}
MakeProblem = Callable[..., SearchProblem]


@dataclass
class Device:
    """``true_accuracy`` grows with size and depends on every option; ``evaluate`` sees it with noise."""

    seed: int = 0
    noise: float = 0.004
    calls: Counter[Architecture] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(1000 + self.seed)
        self.weights = [rng.normal(0, 0.006, int(n)) for n in SPACE.num_options]
        self.rng = rng

    def true_accuracy(self, architecture: Architecture) -> float:
        cost = SPACE.total_cost(architecture)
        options = sum(w[i] for w, i in zip(self.weights, SPACE.encode(architecture), strict=True))
        return float(0.2 + 0.03 * np.log(cost.macs / 1e5) + 0.02 * np.log(cost.parameters / 1e4) + options)

    def evaluate(self, architecture: Architecture) -> float:
        self.calls[architecture] += 1
        return self.true_accuracy(architecture) + float(self.rng.normal(0, self.noise))

    def latencies(self, architectures: Sequence[Architecture]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        means = np.array(
            [
                0.02 + sum(0.01 + MS_PER_MMAC.get(ly.kind, 0.1) * SPACE.cost(ly).macs / 1e6 for ly in SPACE.layers(a))
                for a in architectures
            ]
        )
        return means, 0.02 * means


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def make_device() -> type[Device]:
    return Device


@pytest.fixture
def make_problem() -> MakeProblem:
    def make(device: Device, *, seed=0, max_evaluations=30, limit_ms=1.0, budget_sec=600.0, **more) -> SearchProblem:
        return SearchProblem(
            space=SPACE,
            evaluate=device.evaluate,
            latencies=device.latencies,
            limit_ms=limit_ms,
            rng=np.random.default_rng(seed),
            max_evaluations=max_evaluations,
            budget_sec=budget_sec,
            **more,
        )

    return make
