"""One wall-clock budget for the whole run, split over its stages."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

MAX_DEFAULT_SEC = 7200.0


@dataclass(frozen=True)
class Plan:
    """Seconds per stage. ``ship`` is an estimate, ``train``, ``search`` and ``tune`` are used up;
    specialising gets what is left when it begins."""

    total: float
    train: float
    search: float
    ship: float
    tune: float
    num_finalists: int
    max_evaluations: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def default_budget_sec(num_images: int, image_size: int) -> float:
    """About 95 s for the built-in digits, half an hour for CIFAR-10, two hours at most."""
    return min(95.0 + 0.035 * num_images * (image_size / 32) ** 2, MAX_DEFAULT_SEC)


def profile_cap_sec(total: float) -> float:
    return min(max(0.12 * total, 10.0), 240.0)


def make_plan(total: float, elapsed: float, has_tvm: bool) -> Plan:
    """Split what is left of ``total`` after ``elapsed`` seconds of loading and profiling.

    Exporting, compiling and measuring take what they take, so they are set aside first. With minutes to spend,
    most of the rest goes to fine-tuning: a sandwich step costs three to four times a step of the winner alone,
    so the supernet is to rank and to start from; below about one epoch it cannot rank (docs/benchmarks.md).
    """
    finalists = 1 if total < 60 else 2 if total < 1800 else 3
    tune = min(max(0.03 * total, 2.0), 120.0) if has_tvm else 0.0
    ship = min(10.0 + 0.015 * total + finalists * (2.5 + (5.0 if has_tvm else 0.0)) + tune, 0.6 * total)
    rest = max(total - elapsed - ship, 0.15 * total)
    search = min(0.06 * rest, 120.0)
    train = 0.35 * (rest - search) if total > 300 else 0.6 * (rest - search)
    return Plan(total, train, search, ship, tune, finalists, max_evaluations=40 if total < 180 else 200)
