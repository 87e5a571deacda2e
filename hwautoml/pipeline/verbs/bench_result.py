"""What ``bench`` measured: a row per artifact and runtime, and how they compare with earlier ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hwautoml.core import json_form
from hwautoml.core.json_result import JsonResult
from hwautoml.core.measurement import Measurement


@dataclass(frozen=True)
class BenchRow:
    """One artifact on one runtime. Medians are ms per run of ``batch`` images, with their 95 % interval."""

    artifact: str
    runtime: str
    threads: int
    batch: int
    median_ms: float
    interval_ms: tuple[float, float]
    p95_ms: float | None = None
    p99_ms: float | None = None
    load_ms: float | None = None
    peak_memory_mb: float | None = None  # of the process
    model_memory_mb: float | None = None  # what the model added to it
    size_mb: float | None = None  # of the file
    num_samples: int = 0
    origin: str = "measured"
    noise_floor_relative: float | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, artifact: str, runtime: str, threads: int, size_bytes: int, result: Measurement, reference: str
    ) -> BenchRow:
        """``reference`` names the network that was timed in between."""
        told = result.conditions
        return cls(
            artifact=artifact,
            runtime=runtime,
            threads=threads,
            batch=int(str(told["batch"])),  # compiled files have their own, whatever was asked for
            median_ms=result.median_ms,
            interval_ms=result.interval_ms,
            p95_ms=result.p95_ms,
            p99_ms=result.p99_ms,
            load_ms=_number(told.get("load_ms")),
            peak_memory_mb=_megabytes(told.get("process_peak_bytes")),
            model_memory_mb=_megabytes(told.get("peak_memory_bytes")),
            size_mb=_megabytes(size_bytes),
            num_samples=len(result.samples_ms),
            origin=result.origin,
            noise_floor_relative=_number(told.get("noise_floor_relative")),
            conditions={**told, "reference": reference},
        )

    @property
    def identity(self) -> tuple[str, str, int, int]:
        return self.artifact, self.runtime, self.threads, self.batch

    @property
    def throughput(self) -> float:
        """Images per second."""
        return 1000.0 * self.batch / self.median_ms

    def to_json(self) -> dict[str, Any]:
        return {
            "artifact": self.artifact,
            "runtime": self.runtime,
            "threads": self.threads,
            "batch": self.batch,
            "median_ms": self.median_ms,
            "interval_ms": list(self.interval_ms),
            "p95_ms": self.p95_ms,
            "p99_ms": self.p99_ms,
            "throughput": self.throughput,
            "load_ms": self.load_ms,
            "peak_memory_mb": self.peak_memory_mb,
            "model_memory_mb": self.model_memory_mb,
            "size_mb": self.size_mb,
            "num_samples": self.num_samples,
            "origin": self.origin,
            "noise_floor_relative": self.noise_floor_relative,
            "conditions": dict(self.conditions),
        }

    @classmethod
    def from_json(cls, data: object, where: str) -> BenchRow:
        """Figures that are derived, or that a later version added, are left alone.

        Raises:
            InvalidValueError: something is missing or has another type; ``where`` is what it calls the data.
        """
        return json_form.from_json(cls, data, where)


@dataclass(frozen=True)
class BenchFailure:
    """Something that could not be measured, and why; ``runtime`` is None where it came to none."""

    artifact: str
    runtime: str | None
    error: str

    def to_json(self) -> dict[str, Any]:
        return {"artifact": self.artifact, "runtime": self.runtime, "error": self.error}


@dataclass(frozen=True)
class RowComparison:
    """A row against its former self: ``slower`` is the ratio of the medians at equal speed of the machine."""

    row: BenchRow
    baseline_median_ms: float
    machine_slower: float
    slower: float
    interval: tuple[float, float]
    failed: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "artifact": self.row.artifact,
            "runtime": self.row.runtime,
            "threads": self.row.threads,
            "batch": self.row.batch,
            "median_ms": self.row.median_ms,
            "baseline_median_ms": self.baseline_median_ms,
            "machine_slower": self.machine_slower,
            "slower": self.slower,
            "interval": list(self.interval),
            "failed": self.failed,
        }


@dataclass(frozen=True)
class Comparison:
    """A row fails that is slower by more than ``fail_above``; ``not_in_baseline`` names new artifacts."""

    fail_above: float
    rows: tuple[RowComparison, ...]
    not_in_baseline: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        rows = [row.to_json() for row in self.rows]
        return {"fail_above": self.fail_above, "rows": rows, "not_in_baseline": list(self.not_in_baseline)}


@dataclass(frozen=True)
class BenchResult(JsonResult):
    """``rows`` fastest first; ``skipped`` says what was not measured on which runtime, and why."""

    target: str
    rows: tuple[BenchRow, ...]
    skipped: tuple[str, ...] = ()
    failed: tuple[BenchFailure, ...] = ()
    against: Comparison | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "rows": [row.to_json() for row in self.rows],
            "skipped": list(self.skipped),
            "failed": [failure.to_json() for failure in self.failed],
            "against": None if self.against is None else self.against.to_json(),
        }


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) else None


def _megabytes(value: object) -> float | None:
    return value / 2**20 if isinstance(value, int | float) else None
