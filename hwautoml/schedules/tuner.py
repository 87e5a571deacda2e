"""A small tuner: times a few candidates of the functions that matter most, in this process.

A candidate that crashes takes the process down; callers run the tuner in a child process,
pass on what crashed, and start it again from its records.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import tvm

from hwautoml.schedules import dispatch
from hwautoml.schedules.dispatch import Machine
from hwautoml.schedules.host import record_key
from hwautoml.schedules.kernel import SCHEDULING_ERRORS, Kernel
from hwautoml.schedules.library import function_key, functions_of
from hwautoml.schedules.records import Record, Records
from hwautoml.schedules.tiling import Tiling
from hwautoml.schedules.timing import LocalTimer, Timer, count_calls

_LOGGER = logging.getLogger(__name__)
#: Multiply-adds per microsecond that an untimed function is taken to run at.
_GUESSED_STEPS_PER_US = 20_000.0
_GUESSED_OVERHEAD_US = 2.0
_MIN_REPEAT_MS, _NUM_REPEATS = 2, 4
#: A candidate this many times slower than the best one is not timed any further.
_HOPELESS_RATIO = 1.5

#: A function's last candidates hardly ever win; the time is better spent on other functions.
_MAX_TRIALS = 48

#: Called before each trial with (function key, candidate, trials so far).
TrialCallback = Callable[[str, str, Tiling, int], None]


@dataclass
class _Task:
    """One distinct function of the network while it is being tuned."""

    key: str
    name: str
    function: tvm.tirx.PrimFunc
    num_calls: int
    order: list[Tiling]
    guess_us: float
    record: Record

    @property
    def is_done(self) -> bool:
        return self.record.num_tried >= len(self.order)

    @property
    def priority(self) -> float:
        """Time at stake, less with every candidate tried without an end in sight."""
        known = self.record.tiling is not None
        time_us = self.record.time_us if known else self.guess_us
        return self.num_calls * time_us / (1 + self.record.num_tried)


class Tuner:
    """Tunes the distinct functions of lowered modules for one target."""

    def __init__(
        self,
        modules: Iterable[tvm.IRModule],
        target: tvm.target.Target,
        machine: Machine,
        records: Records,
        seed: int = 0,
        timer: Timer | None = None,
        key: str | None = None,
    ) -> None:
        """``timer`` is another than this process, whose records are filed under ``key``."""
        self.machine, self.records = machine, records
        self.record_key = key if key is not None else record_key(target)
        self.timer = timer if timer is not None else LocalTimer(target, seed)
        self.tasks: dict[str, _Task] = {}
        for module in modules:
            calls = count_calls(module)
            for name, function in functions_of(module).items():
                key = function_key(function)
                if key in self.tasks:
                    self.tasks[key].num_calls += calls[name]
                    continue
                task = self._task(key, name, function, calls[name])
                if task is not None:
                    self.tasks[key] = task

    def run(self, budget_sec: float, on_trial: TrialCallback | None = None, *, each_first: bool = False) -> int:
        """Tries candidates until the budget is spent; returns how many were tried.

        Each is recorded at once, so that a tuner that is ended repeats none but the one that it was timing.
        ``each_first``: no function that has a time gets a further trial before every one has its first.
        """
        deadline, num_trials = time.perf_counter() + budget_sec, 0
        while time.perf_counter() < deadline:
            open_tasks = [task for task in self.tasks.values() if not task.is_done]
            if not open_tasks:
                break
            unknown = [task for task in open_tasks if task.record.tiling is None] if each_first else []
            task = max(unknown or open_tasks, key=lambda candidate: candidate.priority)
            tiling = task.order[task.record.num_tried]
            if tiling not in task.record.crashed:
                if on_trial is not None:
                    on_trial(task.key, task.name, tiling, num_trials)
                self._try(task, tiling)
                num_trials += 1
            task.record = replace(task.record, num_tried=task.record.num_tried + 1)
            self.records.put(self.record_key, task.key, task.record)
            self.records.save()
        return num_trials

    def _task(self, key: str, name: str, function: tvm.tirx.PrimFunc, num_calls: int) -> _Task | None:
        """The tuning task of a function, or None where there is nothing to choose."""
        if not dispatch.is_tunable(function, self.machine):
            return None
        found = dispatch.candidates(function, self.machine)
        record = self.records.get(self.record_key, key) or Record(name)
        guess_us = Kernel(function).num_steps / _GUESSED_STEPS_PER_US + _GUESSED_OVERHEAD_US
        order = _explore(found, np.random.default_rng(int(key, 16)))
        return _Task(key, name, function, num_calls, order, guess_us, record)

    def _try(self, task: _Task, tiling: Tiling) -> None:
        """Builds and times one candidate; its record improves if it is the fastest so far."""
        scheduled = dispatch.scheduled(task.function, tiling, self.machine)
        if scheduled is None:
            return
        try:
            time_us = self._time_us(scheduled, task)
        except SCHEDULING_ERRORS as error:
            _LOGGER.debug("%s: %s does not build: %s", task.name, tiling, error)
            return
        if time_us < task.record.time_us:
            task.record = replace(task.record, tiling=tiling, time_us=time_us)

    def _time_us(self, function: tvm.tirx.PrimFunc, task: _Task) -> float:
        """The shortest mean run time, in microseconds, over a few repeats."""
        run = self.timer.open(function)
        first_us = min(run(1), run(1)) * 1e6
        if first_us > 4 * task.record.time_us + 100:
            return first_us
        number = max(1, round(_MIN_REPEAT_MS * 1e3 / max(first_us, 1.0)))
        best_us = first_us
        for _ in range(_NUM_REPEATS):
            best_us = min(best_us, run(number) * 1e6)
            if best_us > _HOPELESS_RATIO * task.record.time_us:
                break
        return best_us


def _explore(candidates: list[Tiling], generator: np.random.Generator) -> list[Tiling]:
    """The fixed rule's choice, then by turns its next best and one drawn at random."""
    shuffled = [candidates[index] for index in generator.permutation(len(candidates))]
    by_turns = (tiling for pair in zip(candidates, shuffled, strict=True) for tiling in pair)
    return list(dict.fromkeys(by_turns))[:_MAX_TRIALS]
