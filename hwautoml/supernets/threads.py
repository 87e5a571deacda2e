"""How many threads a training step should use, found out while training.

Two threads that share busy cores wait for each other at every operator: on a noisy machine one thread can
be several times as fast, a minute later two can. So every now and then a few real steps run with the
other count, and the faster one stays. No step is wasted.
"""

from __future__ import annotations

import os
import statistics

import torch

TRIAL_STEPS = 4
TRIAL_EVERY_SEC = 30.0


class ThreadTuner:
    """Tell it how long each step took; it sets torch's thread count for the next one."""

    def __init__(self, counts: tuple[int, ...] | None = None) -> None:
        current = torch.get_num_threads()
        self.counts = counts if counts is not None else tuple(sorted({1, max_threads(), current}))
        self.best = current
        self._recent: list[float] = []
        self._trial: list[int] = []
        self._timings: dict[int, float] = {}
        self._since_trial = 0.0

    def after_step(self, seconds: float) -> None:
        self._recent = [*self._recent[-2 * TRIAL_STEPS :], seconds]
        self._since_trial += seconds
        if self._trial:
            self._go_on_with_trial()
        elif self._since_trial > TRIAL_EVERY_SEC and len(self.counts) > 1:
            self._timings = {self.best: statistics.median(self._recent[-TRIAL_STEPS:])}
            self._trial = [count for count in self.counts if count != self.best]
            self._start(self._trial[0])

    def _go_on_with_trial(self) -> None:
        if len(self._recent) < TRIAL_STEPS:
            return
        # The first step after a change pays for starting the threads.
        self._timings[self._trial.pop(0)] = statistics.median(self._recent[1:])
        if self._trial:
            self._start(self._trial[0])
            return
        self.best = min(self._timings, key=lambda count: self._timings[count])
        self._start(self.best)
        self._since_trial = 0.0

    def _start(self, count: int) -> None:
        torch.set_num_threads(count)
        self._recent = []


def max_threads() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))
