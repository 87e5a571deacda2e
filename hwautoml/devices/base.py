"""The contract of a device: what measuring and running networks on it takes, wherever it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from hwautoml.core.measurement import Measurement
from hwautoml.devices.protocol import MeasureFailure, MeasureProtocol

#: Called with (models done, of how many, what is being done).
Progress = Callable[[int, int, str], None]


class Device(Protocol):
    """This machine (`local.LocalDevice`), a board (`rpc.RpcDevice`) or several alike (`board_pool.BoardPool`).

    Nothing is started or connected before the first call that needs it; it is over with ``close``, or at the end of the
    ``with`` block. One thread at a time may use it.
    """

    @property
    def runtime(self) -> str:
        """What opens the files, and what ``conditions`` describe."""
        ...

    @property
    def num_threads(self) -> int:
        """That networks run with."""
        ...

    @property
    def runtime_version(self) -> str:
        """The runtime's over there."""
        ...

    def conditions(self) -> dict[str, object]:
        """Machine, runtime and its version, threads, date, load: JSON values, None where unknown.

        Latencies may be compared where ``fingerprint`` is the same. ``emulator`` names what runs in place of the
        processor; None on a real one.

        Raises:
            TargetUnavailableError: a board cannot be reached, or stays busy.
            MissingDependencyError: the runtime cannot be used.
        """
        ...

    def measure(
        self,
        paths: Sequence[Path],
        reference: Path | None = None,
        protocol: MeasureProtocol | None = None,
        on_progress: Progress | None = None,
    ) -> list[Measurement | MeasureFailure]:
        """One result per path, in order; a model that cannot be measured is a failure, and the others go on.

        With a ``reference`` model, which is sampled throughout, the machine's drift is divided out.

        Raises:
            MeasurementError: the reference itself cannot be measured.
            TargetUnavailableError: a board cannot be reached, or went away before the first sample.
            MissingDependencyError: the runtime cannot be used.
        """
        ...

    def run_model(self, path: Path, inputs: np.ndarray, *, timeout_sec: float = 600.0) -> np.ndarray:
        """Outputs (n, ...) for inputs (n, ...), computed in batches of the model's size.

        Raises:
            MeasurementError: the process that ran it crashed, or time ran out.
            HwAutoMLError: what the runtime reported.
        """
        ...

    def close(self) -> None:
        """Ends its processes and lets go of a board; closing twice is fine, and a later call starts anew."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...
