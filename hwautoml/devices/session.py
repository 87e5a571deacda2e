"""One call of ``measure``: rounds over all models, the reference in between, and the arithmetic of drift."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import monotonic

import numpy as np

from hwautoml.core.measurement import Measurement
from hwautoml.devices.base import Progress
from hwautoml.devices.process import WorkerDiedError, WorkerProcess
from hwautoml.devices.protocol import Drift, MeasureFailure, MeasureProtocol
from hwautoml.errors import HwAutoMLError, MeasurementError, MissingDependencyError

logger = logging.getLogger(__name__)

REFERENCE = -1  # its model number
NO_MODEL = REFERENCE - 1  # no model has this number
_WARMUP_LIMIT = 20  # times warmup_ms: a machine that never settles is measured unsettled


@dataclass
class ModelState:
    """What is known about one model file while it is being measured."""

    number: int
    path: Path
    stamp: tuple[int, int] = (0, 0)
    process: int = 0  # which start of the worker has it open
    num_inner: int = 1  # runs per part
    num_parts: int = 1  # of a sample
    load_ms: float = 0.0
    peak_memory_bytes: int | None = None
    process_peak_bytes: int | None = None
    device: str | None = None  # cpu or cuda
    batch: int | None = None  # of the inputs that it was run on
    launched_singly: str | None = None  # why its kernels are no CUDA graph
    times_sec: list[float] = field(default_factory=list)
    samples_ms: list[float] = field(default_factory=list)  # the fastest part of each
    excess: list[float] = field(default_factory=list)  # the typical part of its second half, relative to the fastest
    single_ms: tuple[float, ...] = ()
    num_preempted: int = 0
    spent_sec: float = 0.0
    failure: str | None = None


def kept_open(known: ModelState | None, path: Path | None) -> ModelState | None:
    """The reference of the last call if it is the same file, without its samples.

    Where a model's weights happen to lie in memory changes its speed by up to a percent: opened anew for
    every call, the reference would add that to every result.
    """
    if path is None:
        return None
    stamp = (path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else (0, 0)
    if known is None or known.failure is not None or (known.path, known.stamp) != (path, stamp):
        return ModelState(REFERENCE, path, stamp)
    return replace(known, times_sec=[], samples_ms=[], excess=[], num_preempted=0, spent_sec=0.0)


class Session:
    """One call of ``measure``; subclasses say which worker a model has, and what to do where one is lost."""

    def __init__(
        self,
        worker: WorkerProcess,
        paths: list[Path],
        reference: ModelState | None,
        protocol: MeasureProtocol,
        on_progress: Progress | None,
    ) -> None:
        self.worker, self.protocol, self._on_progress = worker, protocol, on_progress
        self.models = [ModelState(number, path) for number, path in enumerate(paths)]
        self.reference = reference
        self._rng = np.random.default_rng(protocol.seed)

    def run(self) -> None:
        self.forget()
        start = monotonic()
        if self.reference is not None:
            self._prepare(self.reference)
        for model in self.models:
            self._prepare(model)
        for round_number in range(self.protocol.max_rounds):
            drift = self._drift()
            active = [model for model in self.models if not self._is_done(model, drift)]
            self.report(len(self.models) - len(active), f"round {round_number + 1}")
            if not active or monotonic() - start > self.protocol.max_total_sec:
                break
            for index in self._rng.permutation(len(active)):
                if self._is_reference_due():
                    self._sample(self.reference)
                self._sample(active[index])
        self._sample(self.reference)
        for model in self.models if self.protocol.num_singles else []:
            if model.samples_ms and model.failure is None:
                self.worker_call(model, partial(self._time_singles, model))
        self.report(len(self.models), "measured")

    def results(self, conditions: dict[str, object]) -> list[Measurement | MeasureFailure]:
        drift = self._drift()
        typical = self._typical_over_fastest()
        shared = conditions | {
            "noise_floor_relative": None if drift is None else drift.noise_floor_relative,
            "reference_median_ms": None if drift is None else typical * drift.median_ms,
            "typical_over_fastest": typical,
        }
        results: list[Measurement | MeasureFailure] = []
        for model in self.models:
            if model.failure is None and not model.samples_ms:
                model.failure = f"max_total_sec = {self.protocol.max_total_sec:g} was over before its first sample"
            if model.failure is not None:
                results.append(MeasureFailure(model.path, model.failure))
                continue
            own = {
                "load_ms": model.load_ms,
                "device": model.device,
                "batch": model.batch,
                "peak_memory_bytes": model.peak_memory_bytes,
                "process_peak_bytes": model.process_peak_bytes,
                "num_inner": model.num_inner,
                "preempted_share": model.num_preempted / len(model.samples_ms),
            }
            if model.device == "cuda":
                own["launched_singly"] = model.launched_singly
            samples = tuple(typical * sample for sample in self._corrected(model, drift))
            results.append(Measurement(samples, shared | own, drift is not None, model.single_ms))
        return results

    def forget(self) -> None:
        """Close what an earlier call left open; a worker that is found dying has nothing open in its next life."""
        with suppress(WorkerDiedError):
            self.worker.request({"do": "close", "keep": REFERENCE}, self.protocol.timeout_sec)

    def worker_of(self, model: ModelState) -> WorkerProcess:
        return self.worker

    def _prepare(self, model: ModelState) -> None:
        """Open and warm up, unless the current process has done so."""
        if model.failure is not None:
            return
        self.worker_call(model, lambda: self._open(model))

    def _open(self, model: ModelState) -> None:
        protocol, worker = self.protocol, self.worker_of(model)
        worker.ensure_started()
        if model.process == worker.num_starts:
            return
        message = {"do": "open", "model": model.number, "path": str(model.path.absolute()), "seed": protocol.seed}
        opened = worker.request(message, protocol.timeout_sec)
        # A process that died between the requests has forgotten the model: only now is it known to be open.
        model.process = worker.num_starts
        model.load_ms, model.peak_memory_bytes = opened["load_ms"], opened["peak_memory_bytes"]
        model.process_peak_bytes = opened.get("process_peak_bytes")
        model.device, model.batch = opened.get("device"), opened.get("batch")
        model.launched_singly = opened.get("launched_singly")
        if model.launched_singly is not None:
            logger.info("%s: kernels are launched one by one, no CUDA graph: %s", model.path, model.launched_singly)
        limits = {"min_ms": protocol.warmup_ms, "max_ms": _WARMUP_LIMIT * protocol.warmup_ms}
        warmed = worker.request({"do": "warm", "model": model.number, **limits}, protocol.timeout_sec)
        model.num_parts, model.num_inner = protocol.parts_and_runs(float(warmed["ns"]) / 1e6)

    def _sample(self, model: ModelState | None) -> None:
        if model is None or model.failure is not None:
            return
        self.worker_call(model, lambda: self._time(model))

    def _time(self, model: ModelState) -> None:
        self._open(model)
        start = monotonic()
        shape = {"num_inner": model.num_inner, "num_parts": model.num_parts}
        request = {"do": "time", "model": model.number, **shape}
        answer = self.worker_of(model).request(request, self.protocol.timeout_sec)
        end = monotonic()
        model.spent_sec += end - start
        model.times_sec.append((start + end) / 2)
        parts = np.array(answer["ns"], dtype=np.float64)
        model.samples_ms.append(float(parts.min()) / 1e6)
        model.excess.append(float(np.median(parts[len(parts) // 2 :]) / parts.min()))
        model.num_preempted += bool(answer["preempted"])

    def _time_singles(self, model: ModelState) -> None:
        self._open(model)
        # A slow model has fewer of them, and then no percentile: its user waits no longer than for a fast one.
        affordable = int(1e3 * self.protocol.max_model_sec / float(np.median(model.samples_ms)))
        message = {"do": "singles", "model": model.number, "number": min(self.protocol.num_singles, affordable)}
        answer = self.worker_of(model).request(message, self.protocol.timeout_sec)
        model.single_ms = tuple(float(ns) / 1e6 for ns in answer["ns"])

    def worker_call(self, model: ModelState, call: Callable[[], None]) -> None:
        """Any death or error while a model is being asked about is that model's; the reference's is everyone's."""
        try:
            call()
        except MissingDependencyError:
            raise
        except HwAutoMLError as error:
            if model is self.reference:
                raise MeasurementError(f"the reference {model.path} cannot be measured: {error.message}") from error
            logger.warning("%s failed: %s", model.path, error.message)
            model.failure = error.message
            if isinstance(error, WorkerDiedError):
                logger.info("restarting the worker")

    def _is_done(self, model: ModelState, drift: Drift | None) -> bool:
        protocol, num_samples = self.protocol, len(model.samples_ms)
        if model.failure is not None or model.spent_sec > protocol.max_model_sec:
            return True
        if num_samples < protocol.min_rounds:
            return False
        measured = Measurement(self._corrected(model, drift))
        low, high = measured.interval_ms
        return (high - low) / 2 <= protocol.target_relative_interval * measured.median_ms

    def _is_reference_due(self) -> bool:
        """It gets as much time as all models together: fast ones have many samples between two of its own."""
        if self.reference is None:
            return False
        return self.reference.spent_sec <= sum(model.spent_sec for model in self.models)

    def _typical_over_fastest(self) -> float:
        """One factor for the whole call: it keeps results the machine's usual speed and their ratios exact."""
        models = self.models if self.reference is None else [*self.models, self.reference]
        return float(np.median([excess for model in models for excess in model.excess] or [1.0]))

    def _drift(self) -> Drift | None:
        if self.reference is None or not self.reference.samples_ms:
            return None
        return Drift(np.array(self.reference.times_sec), np.array(self.reference.samples_ms))

    @staticmethod
    def _corrected(model: ModelState, drift: Drift | None) -> tuple[float, ...]:
        samples = np.array(model.samples_ms)
        if drift is not None:
            samples = samples / drift.slowdown(np.array(model.times_sec))
        return tuple(float(sample) for sample in samples)

    def report(self, num_done: int, text: str) -> None:
        if self._on_progress is not None:
            self._on_progress(num_done, len(self.models), text)
