"""A board on the network as a device: libraries compiled here are uploaded and timed over there, by TVM's RPC.

The rounds, the reference and the arithmetic are ``LocalDevice``'s. What differs: the worker process
holds a connection (``rpc_worker``), and a connection can be lost without the model being to blame.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from hwautoml.compilers import board_runtimes
from hwautoml.core.closing import Closing
from hwautoml.core.measurement import Measurement
from hwautoml.core.temporary import temporary_folder
from hwautoml.devices.address import Address
from hwautoml.devices.agent import KEY_VARIABLE
from hwautoml.devices.agent_models import runtime_of
from hwautoml.devices.base import Progress
from hwautoml.devices.connection import Connection, Route
from hwautoml.devices.protocol import MeasureFailure, MeasureProtocol
from hwautoml.devices.session import ModelState, Session, kept_open
from hwautoml.errors import HwAutoMLError, InvalidValueError, MeasurementError, TargetUnavailableError

logger = logging.getLogger(__name__)

_QUESTION_SEC = 30.0  # for what the board answers without computing


class RpcDevice(Closing):
    """Runs ``num_threads`` threads on the board at ``address`` (host:port), one client at a time.

    A file's name says what runs it: ``.so`` TVM, ``.onnx`` the ONNX Runtime of the board's agent, others ``runtime``
    (one of ``compilers.board_runtimes``, by default the first), which is also the one that ``conditions`` describe.

    ``key`` is the one that the board's agent was started with. With ``is_tracker`` the address is a
    tracker's, and any free board of that key will do (they are taken for equal); it is kept until ``close``.

    ``connect_timeout_sec`` is how long to wait for a board that is busy, or that went away while it
    was in use; a call that loses the connection is tried ``num_retries`` times more. Boards that run
    another TVM server than our agent end a session after ``session_timeout_sec``, their only remedy
    against a hung kernel.

    The first call connects. The worker process ends with the thread that made that call.

    Raises:
        InvalidValueError: a malformed address, a number out of range, or a runtime that no board has.
    """

    def __init__(
        self,
        address: str,
        *,
        key: str = "",
        is_tracker: bool = False,
        num_threads: int = 1,
        connect_timeout_sec: float = 60.0,
        session_timeout_sec: float = 3600.0,
        num_retries: int = 2,
        runtime: str | None = None,
    ) -> None:
        known = board_runtimes()
        runtime = known[0] if runtime is None else runtime
        if runtime not in known:
            raise InvalidValueError(
                f"runtime {runtime!r} cannot be measured on a board over the network: it runs {' and '.join(known)}",
                fix=f"--runtime {known[0]}",
            )
        self.runtime = runtime
        if num_threads < 1 or num_retries < 0 or connect_timeout_sec <= 0 or session_timeout_sec <= 0:
            raise InvalidValueError(
                "num_threads >= 1, num_retries >= 0 and positive time limits must hold, got "
                f"{num_threads}, {num_retries}, {connect_timeout_sec:g} s and {session_timeout_sec:g} s"
            )
        secret = key or ("" if is_tracker else os.environ.get(KEY_VARIABLE, ""))  # a tracker's is only a name
        self.route = Route(Address.parse(address), secret, is_tracker)
        self.num_threads = num_threads
        self._connection = Connection(
            self.route, num_threads, connect_timeout_sec, session_timeout_sec, num_retries, runtime
        )
        self._reference: ModelState | None = None

    def close(self) -> None:
        """Lets go of the board."""
        self._connection.close()

    @property
    def worker_pid(self) -> int | None:
        return self._connection.pid

    @property
    def runtime_version(self) -> str:
        """The board's; "unknown" where it runs no agent of ours. Connects."""
        return str(self.conditions()["runtime_version"])

    def conditions(self) -> dict[str, object]:
        """As of a local device, about the board, and how it is reached: JSON values, None where unknown.

        ``fingerprint`` ends in ``-rpc``: these times leave out what a call from Python takes, so they
        don't belong into a table of the same machine's own. A board that cannot describe itself is
        known by its address.

        Raises:
            TargetUnavailableError: the board cannot be reached, or stays busy.
            MissingDependencyError: TVM is missing here.
            MeasurementError: the board does not have the runtime.
        """
        return self._conditions_of(self.runtime)

    def _conditions_of(self, runtime: str) -> dict[str, object]:
        connection, message = self._connection, {"do": "conditions", "runtime": runtime}
        machine = connection.persistently(lambda: connection.request(message, _QUESTION_SEC))["conditions"]
        assert isinstance(machine, dict)
        return machine | {
            "runtime": runtime,
            "runtime_version": machine["runtime_version"] or "unknown",
            "num_threads": self.num_threads,
            "connection": "rpc",
            "address": str(self.route.address),
            "key": self.route.key if self.route.is_tracker else None,  # otherwise it is a secret
            "fingerprint": _fingerprint(machine, self.route),
        }

    def measure(
        self,
        paths: Sequence[Path],
        reference: Path | None = None,
        protocol: MeasureProtocol | None = None,
        on_progress: Progress | None = None,
    ) -> list[Measurement | MeasureFailure]:
        """One result per path (libraries compiled for the board, ONNX files), in order; see ``LocalDevice.measure``.

        When the board goes away for good, what was measured until then comes back: such results have
        ``conditions["interrupted"]``.

        Raises:
            TargetUnavailableError: the board cannot be reached, or went away before the first sample.
            MeasurementError: the reference itself cannot be measured.
        """
        self._reference = kept_open(self._reference, reference)
        conditions = self.conditions()
        runtimes = [runtime_of(path, self.runtime) for path in paths]
        own = {runtime: self._conditions_of(runtime) for runtime in {*runtimes} - {self.runtime}}
        protocol = protocol or MeasureProtocol()
        session = _RpcSession(self._connection, list(paths), self._reference, protocol, on_progress)
        session.run()
        results = session.results(conditions)
        return [_described(r, own.get(name, conditions)) for name, r in zip(runtimes, results, strict=True)]

    def run_model(self, path: Path, inputs: np.ndarray, *, timeout_sec: float = 600.0) -> np.ndarray:
        """Outputs (n, ...) for inputs (n, ...), computed on the board in batches of the model's size.

        Raises:
            TargetUnavailableError: the board cannot be reached, or stays busy.
            MeasurementError: the connection was lost every time, or time ran out.
            HwAutoMLError: what the board reported.
        """
        if not len(inputs):
            raise InvalidValueError("run_model needs at least one input")
        connection = self._connection
        with temporary_folder() as folder:
            given, result = folder / "inputs.npy", folder / "outputs.npy"
            np.save(given, inputs, allow_pickle=False)
            message = {"do": "run", "path": str(path.resolve()), "inputs": str(given), "outputs": str(result)}
            connection.persistently(lambda: connection.request(message, timeout_sec))
            outputs: np.ndarray = np.load(result, allow_pickle=False)
        return outputs


class _BoardGoneError(Exception):
    """No model is to blame; not one of the family, so that none is blamed."""


class _RpcSession(Session):
    """One call of ``measure``: lost connections are tried again, and what was measured is kept in any case."""

    _interrupted: str | None = None

    def __init__(
        self,
        connection: Connection,
        paths: list[Path],
        reference: ModelState | None,
        protocol: MeasureProtocol,
        on_progress: Progress | None,
    ) -> None:
        super().__init__(connection, paths, reference, protocol, on_progress)
        self._connection = connection

    def run(self) -> None:
        try:
            super().run()
        except _BoardGoneError as gone:
            self._stop(gone.__cause__)
        except MeasurementError as error:  # the reference, after it had been measured before
            self._stop(error)

    def results(self, conditions: dict[str, object]) -> list[Measurement | MeasureFailure]:
        more: dict[str, object] = {} if self._interrupted is None else {"interrupted": self._interrupted}
        if not conditions["agent"]:
            more["preempted_share"] = None  # nobody counted
        return [
            replace(result, conditions={**result.conditions, **more}) if isinstance(result, Measurement) else result
            for result in super().results(conditions)
        ]

    def worker_call(self, model: ModelState, call: Callable[[], None]) -> None:
        def persistent_call() -> None:
            try:
                self._connection.persistently(call)
            except TargetUnavailableError as error:
                raise _BoardGoneError from error

        super().worker_call(model, persistent_call)

    def _stop(self, error: BaseException | None) -> None:
        """Raises ``error`` when nothing was measured that could be kept."""
        if not any(model.samples_ms for model in self.models):
            assert error is not None
            raise error
        assert isinstance(error, HwAutoMLError)
        logger.warning("measuring ended early: %s", error.message)
        self._interrupted = error.message
        for model in self.models:
            if not model.samples_ms and model.failure is None:
                model.failure = error.message


def _described(result: Measurement | MeasureFailure, own: Mapping[str, object]) -> Measurement | MeasureFailure:
    """With the runtime that ran it: one session may have two."""
    if isinstance(result, MeasureFailure):
        return result
    told = {field: own[field] for field in ("runtime", "runtime_version", "fingerprint")}
    return replace(result, conditions={**result.conditions, **told})


def _fingerprint(machine: Mapping[str, object], route: Route) -> str:
    described = machine["fingerprint"] or f"{route}-{machine['cpu']}-{machine['machine']}-tvm"
    return re.sub(r"[^a-z0-9.]+", "-", f"{described}-rpc".lower()).strip("-")
