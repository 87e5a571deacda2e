"""This machine as a device: models are timed in an isolated process with fixed threads and cores."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic

import numpy as np

from hwautoml.core.closing import Closing
from hwautoml.core.measurement import Measurement
from hwautoml.core.temporary import temporary_folder
from hwautoml.devices.machine import allowed_cores, fingerprint, machine_conditions
from hwautoml.devices.process import WorkerDiedError, WorkerProcess
from hwautoml.devices.protocol import Drift, MeasureFailure, MeasureProtocol
from hwautoml.errors import HwAutoMLError, InvalidValueError, MeasurementError, MissingDependencyError

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]
_REFERENCE = -1  # its model number
_WARMUP_LIMIT = 20  # times warmup_ms: a machine that never settles is measured unsettled


class LocalDevice(Closing):
    """Runs ``num_threads`` threads on the last allowed cores of this machine.

    The worker process starts with the first call and stays until ``close`` (or the ``with``
    block's end, or this process's, however it ends). ``command`` starts another worker
    that speaks the same protocol.

    Raises:
        InvalidValueError: more threads than cores this process may use.
    """

    def __init__(self, runtime: str, *, num_threads: int = 1, command: Sequence[str] | None = None) -> None:
        cores = allowed_cores()
        if not 1 <= num_threads <= len(cores):
            raise InvalidValueError(
                f"num_threads must be between 1 and {len(cores)}, the cores this process may use, got {num_threads}"
            )
        self.runtime = runtime
        self.num_threads = num_threads
        self.cores = cores[-num_threads:]  # interrupts and other processes prefer the first ones
        self._worker = WorkerProcess(runtime, num_threads, self.cores, command)
        self._reference: _Model | None = None

    def close(self) -> None:
        self._worker.close()

    @property
    def worker_pid(self) -> int | None:
        return self._worker.pid

    @property
    def runtime_version(self) -> str:
        """Starts the worker. Raises MissingDependencyError when the runtime cannot be used here."""
        self._worker.ensure_started()
        assert self._worker.runtime_version is not None
        return self._worker.runtime_version

    def conditions(self) -> dict[str, object]:
        """Machine, runtime and its version, threads, cores, date, load: JSON values."""
        return machine_conditions() | {
            "runtime": self.runtime,
            "runtime_version": self.runtime_version,
            "num_threads": self.num_threads,
            "affinity": list(self.cores),
            "fingerprint": fingerprint(self.runtime, self.runtime_version),
        }

    def measure(
        self,
        paths: Sequence[Path],
        reference: Path | None = None,
        protocol: MeasureProtocol | None = None,
        on_progress: Progress | None = None,
    ) -> list[Measurement | MeasureFailure]:
        """One result per path, in order.

        With a ``reference`` model, which is sampled throughout, the machine's drift is divided out
        and ``conditions["reference_median_ms"]`` lets calls at different times be compared. Samples are
        fastest parts (see ``MeasureProtocol``) times ``conditions["typical_over_fastest"]``, what a part
        of this call typically took: at the machine's usual speed, with the ratios of the fastest.

        Raises:
            MeasurementError: the reference itself cannot be measured.
            MissingDependencyError: the runtime cannot be used here.
        """
        self._reference = _kept_open(self._reference, reference)
        session = _Session(self._worker, list(paths), self._reference, protocol or MeasureProtocol(), on_progress)
        conditions = self.conditions()
        session.run()
        return session.results(conditions)

    def run_model(self, path: Path, inputs: np.ndarray, *, timeout_sec: float = 600.0) -> np.ndarray:
        """Outputs (n, ...) for inputs (n, ...), computed in the worker in batches of the model's size.

        Raises:
            MeasurementError: the worker crashed or ran out of time.
            HwAutoMLError: what the runtime's backend reported.
        """
        if not len(inputs):
            raise InvalidValueError("run_model needs at least one input")
        with temporary_folder() as folder:
            given, result = folder / "inputs.npy", folder / "outputs.npy"
            np.save(given, inputs, allow_pickle=False)
            message = {"do": "run", "path": str(path.resolve()), "inputs": str(given), "outputs": str(result)}
            self._worker.request(message, timeout_sec)
            outputs: np.ndarray = np.load(result, allow_pickle=False)
        return outputs


@dataclass
class _Model:
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


def _kept_open(known: _Model | None, path: Path | None) -> _Model | None:
    """The reference of the last call if it is the same file, without its samples.

    Where a model's weights happen to lie in memory changes its speed by up to a percent: opened anew for
    every call, the reference would add that to every result.
    """
    if path is None:
        return None
    stamp = (path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else (0, 0)
    if known is None or known.failure is not None or (known.path, known.stamp) != (path, stamp):
        return _Model(_REFERENCE, path, stamp)
    return replace(known, times_sec=[], samples_ms=[], excess=[], num_preempted=0, spent_sec=0.0)


class _Session:
    """One call of ``measure``."""

    def __init__(
        self,
        worker: WorkerProcess,
        paths: list[Path],
        reference: _Model | None,
        protocol: MeasureProtocol,
        on_progress: Progress | None,
    ) -> None:
        self._worker, self._protocol, self._on_progress = worker, protocol, on_progress
        self._models = [_Model(number, path) for number, path in enumerate(paths)]
        self._reference = reference
        self._rng = np.random.default_rng(protocol.seed)

    def run(self) -> None:
        self._forget()
        start = monotonic()
        if self._reference is not None:
            self._prepare(self._reference)
        for model in self._models:
            self._prepare(model)
        for round_number in range(self._protocol.max_rounds):
            drift = self._drift()
            active = [model for model in self._models if not self._is_done(model, drift)]
            self._report(len(self._models) - len(active), f"round {round_number + 1}")
            if not active or monotonic() - start > self._protocol.max_total_sec:
                break
            for index in self._rng.permutation(len(active)):
                if self._is_reference_due():
                    self._sample(self._reference)
                self._sample(active[index])
        self._sample(self._reference)
        for model in self._models if self._protocol.num_singles else []:
            if model.samples_ms and model.failure is None:
                self._worker_call(model, lambda model=model: self._time_singles(model))  # type: ignore[misc]
        self._report(len(self._models), "measured")

    def results(self, conditions: dict[str, object]) -> list[Measurement | MeasureFailure]:
        drift = self._drift()
        typical = self._typical_over_fastest()
        shared = conditions | {
            "noise_floor_relative": None if drift is None else drift.noise_floor_relative,
            "reference_median_ms": None if drift is None else typical * drift.median_ms,
            "typical_over_fastest": typical,
        }
        results: list[Measurement | MeasureFailure] = []
        for model in self._models:
            if model.failure is None and not model.samples_ms:
                model.failure = f"max_total_sec = {self._protocol.max_total_sec:g} was over before its first sample"
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

    def _forget(self) -> None:
        """Close what an earlier call left open; a worker that is found dying has nothing open in its next life."""
        with suppress(WorkerDiedError):
            self._worker.request({"do": "close", "keep": _REFERENCE}, self._protocol.timeout_sec)

    def _worker_of(self, model: _Model) -> WorkerProcess:
        return self._worker

    def _prepare(self, model: _Model) -> None:
        """Open and warm up, unless the current process has done so."""
        if model.failure is not None:
            return
        self._worker_call(model, lambda: self._open(model))

    def _open(self, model: _Model) -> None:
        protocol, worker = self._protocol, self._worker_of(model)
        worker.ensure_started()
        if model.process == worker.num_starts:
            return
        message = {"do": "open", "model": model.number, "path": str(model.path.absolute()), "seed": protocol.seed}
        opened = worker.request(message, protocol.timeout_sec)
        # A process that died between the requests has forgotten the model: only now is it known to be open.
        model.process = worker.num_starts
        model.load_ms, model.peak_memory_bytes = opened["load_ms"], opened["peak_memory_bytes"]  # type: ignore[assignment]
        model.process_peak_bytes = opened.get("process_peak_bytes")  # type: ignore[assignment]
        model.device, model.batch = opened.get("device"), opened.get("batch")  # type: ignore[assignment]
        model.launched_singly = opened.get("launched_singly")  # type: ignore[assignment]
        if model.launched_singly is not None:
            logger.info("%s: kernels are launched one by one, no CUDA graph: %s", model.path, model.launched_singly)
        limits = {"min_ms": protocol.warmup_ms, "max_ms": _WARMUP_LIMIT * protocol.warmup_ms}
        warmed = worker.request({"do": "warm", "model": model.number, **limits}, protocol.timeout_sec)
        model.num_parts, model.num_inner = protocol.parts_and_runs(float(warmed["ns"]) / 1e6)  # type: ignore[arg-type]

    def _sample(self, model: _Model | None) -> None:
        if model is None or model.failure is not None:
            return
        self._worker_call(model, lambda: self._time(model))

    def _time(self, model: _Model) -> None:
        self._open(model)
        start = monotonic()
        shape = {"num_inner": model.num_inner, "num_parts": model.num_parts}
        request = {"do": "time", "model": model.number, **shape}
        answer = self._worker_of(model).request(request, self._protocol.timeout_sec)
        end = monotonic()
        model.spent_sec += end - start
        model.times_sec.append((start + end) / 2)
        parts = np.array(answer["ns"], dtype=np.float64)
        model.samples_ms.append(float(parts.min()) / 1e6)
        model.excess.append(float(np.median(parts[len(parts) // 2 :]) / parts.min()))
        model.num_preempted += bool(answer["preempted"])

    def _time_singles(self, model: _Model) -> None:
        self._open(model)
        # A slow model has fewer of them, and then no percentile: its user waits no longer than for a fast one.
        affordable = int(1e3 * self._protocol.max_model_sec / float(np.median(model.samples_ms)))
        message = {"do": "singles", "model": model.number, "number": min(self._protocol.num_singles, affordable)}
        answer = self._worker_of(model).request(message, self._protocol.timeout_sec)
        model.single_ms = tuple(float(ns) / 1e6 for ns in answer["ns"])  # type: ignore[attr-defined]

    def _worker_call(self, model: _Model, call: Callable[[], None]) -> None:
        """Any death or error while a model is being asked about is that model's; the reference's is everyone's."""
        try:
            call()
        except MissingDependencyError:
            raise
        except HwAutoMLError as error:
            if model is self._reference:
                raise MeasurementError(f"the reference {model.path} cannot be measured: {error.message}") from error
            logger.warning("%s failed: %s", model.path, error.message)
            model.failure = error.message
            if isinstance(error, WorkerDiedError):
                logger.info("restarting the worker")

    def _is_done(self, model: _Model, drift: Drift | None) -> bool:
        protocol, num_samples = self._protocol, len(model.samples_ms)
        if model.failure is not None or model.spent_sec > protocol.max_model_sec:
            return True
        if num_samples < protocol.min_rounds:
            return False
        measured = Measurement(self._corrected(model, drift))
        low, high = measured.interval_ms
        return (high - low) / 2 <= protocol.target_relative_interval * measured.median_ms

    def _is_reference_due(self) -> bool:
        """It gets as much time as all models together: fast ones have many samples between two of its own."""
        if self._reference is None:
            return False
        return self._reference.spent_sec <= sum(model.spent_sec for model in self._models)

    def _typical_over_fastest(self) -> float:
        """One factor for the whole call: it keeps results the machine's usual speed and their ratios exact."""
        models = self._models if self._reference is None else [*self._models, self._reference]
        return float(np.median([excess for model in models for excess in model.excess] or [1.0]))

    def _drift(self) -> Drift | None:
        if self._reference is None or not self._reference.samples_ms:
            return None
        return Drift(np.array(self._reference.times_sec), np.array(self._reference.samples_ms))

    @staticmethod
    def _corrected(model: _Model, drift: Drift | None) -> tuple[float, ...]:
        samples = np.array(model.samples_ms)
        if drift is not None:
            samples = samples / drift.slowdown(np.array(model.times_sec))
        return tuple(float(sample) for sample in samples)

    def _report(self, num_done: int, text: str) -> None:
        if self._on_progress is not None:
            self._on_progress(num_done, len(self._models), text)
