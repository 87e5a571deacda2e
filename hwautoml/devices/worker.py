"""The isolated child process that opens, times and runs model files: JSON lines in, JSON lines out.

Started by ``process.WorkerProcess`` as ``python -m hwautoml.devices.worker``. One request is
answered by one line. Errors that a runtime backend is expected to report are answers; anything
else ends the process, and the parent blames the model it was asked about.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import Any, TextIO

import numpy as np

from hwautoml.compilers.base import CudaRun
from hwautoml.core.children import die_with_parent
from hwautoml.devices.running import (
    batch_of,
    claim_stdout,
    random_input,
    reset_peak_memory,
    sample,
    status_bytes,
)
from hwautoml.errors import HwAutoMLError, MissingDependencyError

_RUN_BATCH = 64
_SETTLED = 0.97  # a warm-up batch that is no faster than this share of the best so far is settled
_NUM_SETTLED = 3


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve requests until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtime", required=True)
    parser.add_argument("--num-threads", type=int, required=True)
    parser.add_argument("--cores", required=True, help="comma-separated")
    parser.add_argument("--parent", type=int, required=True, help="process id")
    options = parser.parse_args(arguments)
    die_with_parent(options.parent)
    os.sched_setaffinity(0, {int(core) for core in options.cores.split(",")})
    answers = claim_stdout()
    try:
        server = Server(options.runtime, options.num_threads)
    except HwAutoMLError as error:
        _send(answers, {"ok": False, "error": error.message, "type": type(error).__name__, "fix": error.fix})
        return
    _send(answers, {"ok": True, "runtime_version": server.runtime_version})
    for line in sys.stdin:
        try:
            answer = {"ok": True, **server.answer(json.loads(line))}
        except HwAutoMLError as error:
            answer = {"ok": False, "error": error.message, "type": type(error).__name__, "fix": error.fix}
        _send(answers, answer)


def _send(answers: TextIO, answer: Mapping[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


class Server:
    """Models by number, and what can be asked of them."""

    def __init__(self, runtime: str, num_threads: int) -> None:
        from hwautoml.compilers import load_backend

        self._backend = load_backend(runtime)
        reason = self._backend.unavailable_reason()
        if reason is not None:
            raise MissingDependencyError(f"runtime {runtime!r} cannot be used: {reason}")
        self._backend.start(num_threads)  # so that loading a model means the model
        self.runtime_version = str(self._backend.version())
        self._num_threads = num_threads
        self._calls: dict[int, Callable[[], None]] = {}
        self._models: dict[int, Any] = {}  # kept alive: a bound call may point into its model

    def answer(self, request: Mapping[str, Any]) -> dict[str, object]:
        actions: dict[str, Callable[..., dict[str, object]]] = {
            "open": self.open,
            "close": self.close,
            "warm": self.warm,
            "time": self.time,
            "run": self.run,
            "singles": self.singles,
        }
        return actions[request["do"]](**{name: value for name, value in request.items() if name != "do"})

    def open(self, model: int, path: str, seed: int) -> dict[str, object]:
        """Load, and run once on random input; loading time and peak memory include that first run.

        ``peak_memory_bytes`` is what the model added to the process, ``process_peak_bytes`` all of it, the
        interpreter and the runtime included.
        """
        before = reset_peak_memory()
        start = perf_counter()
        opened = self._backend.open_model(Path(path), num_threads=self._num_threads)
        call = opened.bind(random_input(opened.input_shape, opened.input_dtype, seed))
        call()
        load_ms = 1e3 * (perf_counter() - start)
        self._models[model], self._calls[model] = opened, call
        told: dict[str, object] = {"load_ms": load_ms, "device": opened.device, "batch": batch_of(opened.input_shape)}
        if isinstance(call, CudaRun):
            told["launched_singly"] = call.launched_singly
        if before is None:
            return {**told, "peak_memory_bytes": None, "process_peak_bytes": None}
        peak = status_bytes("VmHWM")
        return {**told, "peak_memory_bytes": max(peak - before, 0), "process_peak_bytes": peak}

    def close(self, keep: int) -> dict[str, object]:
        """Forget all models but ``keep``."""
        for model in [number for number in self._models if number != keep]:
            del self._calls[model], self._models[model]
        gc.collect()
        return {}

    def warm(self, model: int, min_ms: float, max_ms: float) -> dict[str, object]:
        """Run until batches stop getting faster; answers with nanoseconds per run."""
        call, num_inner, settled = self._calls[model], 1, 0
        batches: list[float] = []
        start = perf_counter_ns()
        while settled < _NUM_SETTLED and perf_counter_ns() - start < max_ms * 1e6:
            spent, _ = sample(call, num_inner)
            per_run = spent / num_inner
            settled = settled + 1 if batches and per_run > _SETTLED * min(batches) else 0
            batches.append(per_run)
            num_inner = max(1, round(min_ms / 4 * 1e6 / min(batches)))
        return {"ns": statistics.median(batches[-_NUM_SETTLED:])}

    def time(self, model: int, num_inner: int, num_parts: int) -> dict[str, object]:
        """Nanoseconds per run of ``num_parts`` parts of ``num_inner`` runs each, after a run that warms the caches.

        ``preempted``: the scheduler took the core away during one of them.
        """
        call = self._calls[model]
        call()
        parts = [sample(call, num_inner) for _ in range(num_parts)]
        return {"ns": [spent / num_inner for spent, _ in parts], "preempted": any(taken for _, taken in parts)}

    def singles(self, model: int, number: int) -> dict[str, object]:
        """Nanoseconds of ``number`` runs timed one by one, for the tail: nothing is retaken or left out."""
        call = self._calls[model]
        call()
        return {"ns": [sample(call, 1)[0] for _ in range(number)]}

    def run(self, path: str, inputs: str, outputs: str) -> dict[str, object]:
        """Outputs (n, ...) for inputs (n, ...), in the model's own batches; both are .npy files."""
        opened = self._backend.open_model(Path(path), num_threads=self._num_threads)
        images = np.load(inputs, allow_pickle=False).astype(opened.input_dtype, copy=False)
        # A fixed batch is the model's; -1 takes any, and a moderate one keeps memory bounded.
        batch = int(opened.input_shape[0]) if opened.input_shape[0] > 0 else min(_RUN_BATCH, len(images))
        results = []
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            padding = [(0, batch - len(part))] + [(0, 0)] * (images.ndim - 1)
            results.append(np.array(opened(np.ascontiguousarray(np.pad(part, padding)))[: len(part)]))
        np.save(outputs, np.concatenate(results), allow_pickle=False)
        return {}


if __name__ == "__main__":
    main()
