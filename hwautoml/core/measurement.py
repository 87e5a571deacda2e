"""Measured latencies: raw samples, their median and its interval, and the conditions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from hwautoml.errors import InvalidValueError

Json = object


@dataclass(frozen=True)
class LatencySummary:
    """The figures that results and reports show of a measurement."""

    median_ms: float
    interval_ms: tuple[float, float]
    p95_ms: float | None = None


@dataclass(frozen=True)
class Measurement:
    """Latencies of one artifact under fixed conditions.

    ``samples_ms`` are per-inference times, one per round, drift-corrected when
    ``drift_corrected`` says so. Fast models run many times per sample, which hides the tail,
    so ``single_ms`` holds inferences that were timed one by one, as the machine gave them.
    ``conditions`` holds machine, runtime and its version, threads, batch, date, noise floor.
    """

    samples_ms: tuple[float, ...]
    conditions: Mapping[str, Json] = field(default_factory=dict)
    drift_corrected: bool = False
    single_ms: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.samples_ms or not all(math.isfinite(s) and s > 0 for s in self.samples_ms):
            raise InvalidValueError("a measurement needs positive, finite samples in ms")

    @property
    def origin(self) -> str:
        """ "measured"; "emulated" where an emulator ran, whose times say nothing about the device it stands for."""
        return "measured" if self.conditions.get("emulator") is None else "emulated"

    @cached_property
    def median_ms(self) -> float:
        return float(np.median(self.samples_ms))

    @cached_property
    def interval_ms(self) -> tuple[float, float]:
        """95 % confidence interval of the median, distribution-free (binomial order statistics).

        With fewer than 6 samples no such interval exists and the range is returned.
        """
        ordered = np.sort(self.samples_ms)
        n = len(ordered)
        if n < 6:
            return float(ordered[0]), float(ordered[-1])
        half_width = 1.96 * math.sqrt(n) / 2  # normal approximation of Binomial(n, 1/2)
        low = max(math.floor(n / 2 - half_width), 0)
        high = min(math.ceil(n / 2 + half_width), n - 1)
        return float(ordered[low]), float(ordered[high])

    @cached_property
    def p95_ms(self) -> float | None:
        """95th percentile of single inferences; None below 100 of them, where five would decide it."""
        return float(np.quantile(self.single_ms, 0.95)) if len(self.single_ms) >= 100 else None

    @cached_property
    def p99_ms(self) -> float | None:
        """99th percentile of single inferences; None below 500 of them."""
        return float(np.quantile(self.single_ms, 0.99)) if len(self.single_ms) >= 500 else None

    @property
    def deviation_ms(self) -> float:
        """Standard deviation of the median, from its interval."""
        low, high = self.interval_ms
        return (high - low) / (2 * 1.96)

    def to_json(self) -> dict[str, Any]:
        return {
            "samples_ms": list(self.samples_ms),
            "single_ms": list(self.single_ms),
            "conditions": dict(self.conditions),
            "drift_corrected": self.drift_corrected,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measurement:
        """Keys that are not a measurement's are left alone: journals store further facts beside them.

        Raises:
            InvalidValueError: samples are missing, or are no positive, finite numbers.
        """
        return cls(
            tuple(data.get("samples_ms", ())),
            data.get("conditions", {}),
            bool(data.get("drift_corrected", False)),
            tuple(data.get("single_ms", ())),
        )

    @property
    def summary(self) -> LatencySummary:
        return LatencySummary(self.median_ms, self.interval_ms, self.p95_ms)
