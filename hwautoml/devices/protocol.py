"""How a measurement is taken, what comes back when it fails, and the arithmetic of drift."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwautoml.errors import InvalidValueError

_MIN_PARTS = 3
_DRIFT_WINDOW = 5  # reference samples; their running median is the machine's speed at that moment


@dataclass(frozen=True)
class MeasureProtocol:
    """Warm-up, then rounds over all models in random order until each median is known well enough.

    A model is done when, after ``min_rounds``, half the 95 % interval of its median is within
    ``target_relative_interval`` of it, at ``max_rounds``, or when it has used ``max_model_sec``.
    ``max_total_sec`` bounds the rounds of one call; ``timeout_sec`` one request to the worker (loading,
    warming up, one sample). ``num_singles`` inferences are timed one by one as well, for percentiles.

    A sample takes at least ``min_sample_ms`` and is the fastest of ``num_parts`` parts run one after the
    other, a part being as many runs as fit: the first runs after another model's are slower, and what other
    processes and other guests of the machine do comes and goes within milliseconds; the fastest of ten
    parts escapes both (docs/measuring.md has the experiment: two sessions then differ by 0.4 %, not 2 %).
    Where ten parts would take longer than ``max_sample_ms`` they are fewer, but not under three.
    """

    warmup_ms: float = 10.0
    min_rounds: int = 10
    max_rounds: int = 40
    target_relative_interval: float = 0.02
    min_sample_ms: float = 1.0
    num_parts: int = 10
    max_sample_ms: float = 10.0
    max_model_sec: float = 5.0
    max_total_sec: float = 300.0
    timeout_sec: float = 60.0
    num_singles: int = 0
    seed: int = 0

    @classmethod
    def for_layers(cls, seed: int = 0) -> MeasureProtocol:
        """For hundreds of single layers, of which each matters little to a network."""
        return cls(
            warmup_ms=5.0,
            min_rounds=8,
            max_rounds=16,
            target_relative_interval=0.03,
            min_sample_ms=0.5,
            max_model_sec=2.0,
            timeout_sec=20.0,
            seed=seed,
        )

    def __post_init__(self) -> None:
        problems = []
        if not 1 <= self.min_rounds <= self.max_rounds:
            problems.append(f"1 <= min_rounds <= max_rounds must hold, got {self.min_rounds} and {self.max_rounds}")
        if self.num_parts < 1:
            problems.append(f"num_parts must be at least 1, got {self.num_parts}")
        for name in (
            "warmup_ms",
            "target_relative_interval",
            "min_sample_ms",
            "max_sample_ms",
            "max_model_sec",
            "max_total_sec",
            "timeout_sec",
        ):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                problems.append(f"{name} must be positive, got {getattr(self, name)!r}")
        if problems:
            raise InvalidValueError("measuring protocol: " + "; ".join(problems))

    def parts_and_runs(self, run_ms: float) -> tuple[int, int]:
        """How many parts a sample of a model has that takes ``run_ms``, and of how many runs each."""
        num_inner = max(1, round(self.min_sample_ms / self.num_parts / run_ms))
        longest_ms = max(self.max_sample_ms, self.min_sample_ms)
        most = max(_MIN_PARTS, round(longest_ms / (num_inner * run_ms)))
        return min(self.num_parts, most), num_inner


@dataclass(frozen=True)
class MeasureFailure:
    """A model that could not be measured; the others were."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Drift:
    """The reference's samples, in the order they were taken: ``times_sec`` (n,) ascending, ``samples_ms`` (n,)."""

    times_sec: NDArray[np.float64]
    samples_ms: NDArray[np.float64]

    @property
    def median_ms(self) -> float:
        return float(np.median(self.samples_ms))

    def slowdown(self, at_sec: NDArray[np.float64]) -> NDArray[np.float64]:
        """How slow the machine was at times (m,), relative to its median over the call; interpolated."""
        return np.exp(np.interp(at_sec, self.times_sec, self._smooth()))

    @property
    def noise_floor_relative(self) -> float:
        """Robust standard deviation of one reference sample around the machine's speed: no sample is better."""
        residual = np.log(self.samples_ms / self.median_ms) - self._smooth()
        return float(1.4826 * np.median(np.abs(residual)))

    def _smooth(self) -> NDArray[np.float64]:
        """(n,) running median of the logarithm; the window shrinks towards the ends."""
        padded = np.pad(np.log(self.samples_ms / self.median_ms), _DRIFT_WINDOW // 2, constant_values=np.nan)
        windows = np.lib.stride_tricks.sliding_window_view(padded, _DRIFT_WINDOW)
        smooth: NDArray[np.float64] = np.nanmedian(windows, axis=1)
        return smooth
