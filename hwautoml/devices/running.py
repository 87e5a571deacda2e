"""What the processes that run models, here or on a board, have in common: timing, random inputs, memory, output."""

from __future__ import annotations

import gc
import os
import resource
from collections.abc import Callable, Sequence
from itertools import repeat
from pathlib import Path
from time import perf_counter_ns
from typing import TextIO

import numpy as np


def claim_stdout() -> TextIO:
    """The protocol's own copy of standard output; whatever else prints goes to standard error from here on."""
    protocol = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(protocol, "w", encoding="utf-8")


def sample(call: Callable[[], None], num_inner: int) -> tuple[int, bool]:
    """Nanoseconds, and whether the scheduler interrupted."""
    was_enabled = gc.isenabled()
    gc.disable()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    start = perf_counter_ns()
    for _ in repeat(None, num_inner):
        call()
    spent = perf_counter_ns() - start
    preempted = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw != before
    if was_enabled:
        gc.enable()
    return max(spent, 1), preempted


def random_input(shape: Sequence[int], dtype: str, seed: int) -> np.ndarray:
    """Normal for floats (zeros and denormals have timings of their own), the whole range for 8-bit integers.

    Wider ones are indices more often than not: zeros and ones, which every table has.
    """
    rng = np.random.default_rng(seed)
    shape = [max(extent, 1) for extent in shape]  # -1 is an extent left open
    if np.issubdtype(np.dtype(dtype), np.integer):
        limits = np.iinfo(dtype)
        if limits.bits > 8:
            return rng.integers(0, 2, size=shape, dtype=dtype)
        return rng.integers(limits.min, limits.max, size=shape, dtype=dtype, endpoint=True)
    return rng.standard_normal(shape).astype(dtype)


def batch_of(shape: Sequence[int]) -> int:
    """That of the random input: 1 where it is left open, or there is none."""
    return max(next(iter(shape), 1), 1)


def reset_peak_memory() -> int | None:
    """Resident bytes now, with the kernel's peak counter restarted; None where it cannot be."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return None
    return status_bytes("VmRSS")


def status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0
