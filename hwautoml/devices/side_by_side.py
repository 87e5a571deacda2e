"""Several models, each in an isolated process of its own, whatever their runtimes: one common set of rounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hwautoml.core.measurement import Measurement
from hwautoml.devices.base import Progress
from hwautoml.devices.local import LocalDevice
from hwautoml.devices.process import WorkerProcess
from hwautoml.devices.protocol import MeasureFailure, MeasureProtocol
from hwautoml.devices.session import REFERENCE, ModelState, Session
from hwautoml.errors import HwAutoMLError, MeasurementError

Entry = tuple[LocalDevice, Path]


def measure_side_by_side(
    entries: Sequence[Entry],
    reference: Entry | None = None,
    protocol: MeasureProtocol | None = None,
    on_progress: Progress | None = None,
) -> list[Measurement | MeasureFailure]:
    """One result per entry, in order: as ``LocalDevice.measure``, across runtimes.

    Every entry has its own device, and so its own process: what a model needs of memory, and how it
    crashes, is nobody else's. All of them are sampled in the same rounds, one at a time, with the
    reference in between; ``conditions["process_peak_bytes"]`` is the peak of the entry's process. A runtime
    that cannot be started is its entry's failure.

    Raises:
        MeasurementError: the reference cannot be measured.
    """
    session = _SideBySideSession(entries, reference, protocol or MeasureProtocol(), on_progress)
    session.run()
    return session.results({})


class _SideBySideSession(Session):
    def __init__(
        self, entries: Sequence[Entry], reference: Entry | None, protocol: MeasureProtocol, on_progress: Progress | None
    ) -> None:
        self._devices = {number: device for number, (device, _) in enumerate(entries)}
        kept = None
        if reference is not None:
            self._devices[REFERENCE], path = reference
            kept = ModelState(REFERENCE, path)
        paths = [path for _, path in entries]
        super().__init__(self._devices[0].worker, paths, kept, protocol, on_progress)
        self._conditions: dict[int, dict[str, object]] = {}

    def forget(self) -> None:
        """The processes start here, each failing for its own entry."""
        for model in [*self.models, *([self.reference] if self.reference is not None else [])]:
            device = self._devices[model.number]
            try:
                self._conditions[model.number] = device.conditions()
                device.forget_models(self.protocol.timeout_sec)
            except HwAutoMLError as error:
                if model is self.reference:
                    raise MeasurementError(f"the reference {model.path} cannot be measured: {error.message}") from error
                model.failure = error.message
            self.report(0, f"started {device.runtime}")

    def worker_of(self, model: ModelState) -> WorkerProcess:
        return self._devices[model.number].worker

    def results(self, conditions: dict[str, object]) -> list[Measurement | MeasureFailure]:
        found = super().results(conditions)
        return [
            Measurement(
                result.samples_ms,
                self._conditions[number] | dict(result.conditions),
                result.drift_corrected,
                result.single_ms,
            )
            if isinstance(result, Measurement)
            else result
            for number, result in enumerate(found)
        ]
