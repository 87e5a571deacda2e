"""The way to a board, and the worker process that goes it: connect, wait for a busy one, connect again."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from hwautoml.core.children import module_command
from hwautoml.devices.address import Address
from hwautoml.devices.agent import AGENT_COMMAND
from hwautoml.devices.process import WorkerDiedError, WorkerProcess
from hwautoml.devices.tracker import list_devices
from hwautoml.errors import HwAutoMLError, InvalidValueError, TargetUnavailableError

logger = logging.getLogger(__name__)

_COMMAND = module_command("hwautoml.devices.rpc_worker")
_PROBE_SEC = 3.0
Result = TypeVar("Result")


@dataclass(frozen=True)
class Route:
    """A board's address and its agent's key, or a tracker's and the key that boards registered under."""

    address: Address
    key: str = ""
    is_tracker: bool = False

    def __post_init__(self) -> None:
        if self.is_tracker and not self.key:
            raise InvalidValueError(f"the tracker at {self.address} hands boards out by key, and none was given")

    def __str__(self) -> str:
        return f"board {self.key} of tracker {self.address}" if self.is_tracker else f"board {self.address}"

    @property
    def start_command(self) -> str:
        """What to type on the board."""
        if self.is_tracker:
            return f"{AGENT_COMMAND} --host 0.0.0.0 --tracker {self.address} --key {self.key}"
        if self.address.is_loopback:
            return f"{AGENT_COMMAND} --port {self.address.port}" + (" --key KEY" if self.key else "")
        return f"{AGENT_COMMAND} --host 0.0.0.0 --port {self.address.port} --key KEY"


class Connection(WorkerProcess):
    """A worker process that is connected whenever it runs.

    A first connection is refused at once where nothing listens; a later one waits for the board
    to come back, at most ``timeout_sec``. Either waits as long for a board that is busy.
    """

    def __init__(
        self,
        route: Route,
        num_threads: int,
        timeout_sec: float,
        session_timeout_sec: float,
        num_retries: int,
        runtime: str,
    ) -> None:
        super().__init__(str(route), num_threads, (), _COMMAND)
        self._route, self._timeout_sec, self._num_retries = route, timeout_sec, num_retries
        self._message = {
            "do": "connect",
            "host": route.address.host,
            "port": route.address.port,
            "key": route.key,
            "is_tracker": route.is_tracker,
            "num_threads": num_threads,
            "session_timeout_sec": session_timeout_sec,
            "runtime": runtime,
        }
        self._was_connected = False

    def ensure_started(self) -> None:
        """Raises TargetUnavailableError when there is no way to the board, InvalidValueError for too many threads."""
        if self.is_running:
            return
        if self._route.is_tracker and not self._was_connected:
            self._require_registered()
        super().ensure_started()
        patience_sec = self._timeout_sec if self._was_connected else 0.0
        try:
            self.request({**self._message, "patience_sec": patience_sec}, self._timeout_sec + patience_sec)
        except WorkerDiedError as error:
            raise self._unavailable(self._why_silent(error)) from error
        except TargetUnavailableError as error:
            self.close()
            raise self._unavailable(error.message) from error
        except HwAutoMLError:
            self.close()
            raise
        self._was_connected = True

    def request(self, message: Mapping[str, object], timeout_sec: float) -> dict[str, Any]:
        """As of any worker process; the board, too, gives up after ``timeout_sec``."""
        return super().request({**message, "timeout_sec": timeout_sec}, timeout_sec)

    def persistently(self, call: Callable[[], Result]) -> Result:
        """The result of ``call``, which asks again when the connection was lost, or time ran out, on the way.

        Raises:
            WorkerDiedError: every try ended so.
        """
        for num_left in range(self._num_retries, -1, -1):
            try:
                return call()
            except WorkerDiedError as error:
                if not num_left:
                    raise WorkerDiedError(f"{error.message} (tried {self._num_retries + 1} times)") from error
                logger.warning("%s; connecting anew, %d tries left", error.message, num_left)
        raise AssertionError("the last try returns or raises")

    def _require_registered(self) -> None:
        known = {boards.key: boards for boards in list_devices(str(self._route.address)) if boards.addresses}
        if self._route.key not in known:
            raise self._unavailable(f"none is registered; the tracker has {', '.join(known) or 'no boards at all'}")

    def _unavailable(self, reason: str) -> TargetUnavailableError:
        return TargetUnavailableError(
            f"{self._route} cannot be used: {reason}", fix=f"on the board: {self._route.start_command}"
        )

    def _why_silent(self, error: WorkerDiedError) -> str:
        """Silence has two reasons, which call for different remedies."""
        address, waited = self._route.address, f"within {self._timeout_sec:g} s"
        if "gave no answer" not in error.message:
            return error.message
        if self._route.is_tracker:
            boards = next((b for b in list_devices(str(address)) if b.key == self._route.key), None)
            num_boards = 0 if boards is None else len(boards.addresses)
            return f"none of {num_boards} became free {waited}"
        try:
            socket.create_connection((address.host, address.port), timeout=_PROBE_SEC).close()
        except OSError as reason:
            return f"no answer {waited} ({reason})"
        return f"it is busy with another client and did not become free {waited}"
