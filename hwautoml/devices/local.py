"""This machine as a device: models are timed in an isolated process with fixed threads and cores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hwautoml.core.closing import Closing
from hwautoml.core.measurement import Measurement
from hwautoml.core.temporary import temporary_folder
from hwautoml.devices.base import Progress
from hwautoml.devices.machine import allowed_cores, fingerprint, machine_conditions
from hwautoml.devices.process import WorkerProcess
from hwautoml.devices.protocol import MeasureFailure, MeasureProtocol
from hwautoml.devices.session import NO_MODEL, ModelState, Session, kept_open
from hwautoml.errors import InvalidValueError


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
        self.worker = WorkerProcess(runtime, num_threads, self.cores, command)
        self._reference: ModelState | None = None

    def close(self) -> None:
        self.worker.close()

    def forget_models(self, timeout_sec: float) -> None:
        """The worker, which starts if need be, closes all it has open, the kept reference too."""
        self.worker.request({"do": "close", "keep": NO_MODEL}, timeout_sec)
        self._reference = None

    @property
    def worker_pid(self) -> int | None:
        return self.worker.pid

    @property
    def runtime_version(self) -> str:
        """Starts the worker. Raises MissingDependencyError when the runtime cannot be used here."""
        self.worker.ensure_started()
        assert self.worker.runtime_version is not None
        return self.worker.runtime_version

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
        self._reference = kept_open(self._reference, reference)
        session = Session(self.worker, list(paths), self._reference, protocol or MeasureProtocol(), on_progress)
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
            self.worker.request(message, timeout_sec)
            outputs: np.ndarray = np.load(result, allow_pickle=False)
        return outputs
