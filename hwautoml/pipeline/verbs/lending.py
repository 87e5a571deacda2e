"""Verbs ``agent`` and ``devices``: lend this machine to others for measuring, and see which boards there are."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hwautoml.devices.address import Address
from hwautoml.devices.agent import DEFAULT_PORT, key_from, serve_agent
from hwautoml.devices.rpc import RpcDevice
from hwautoml.devices.tracker import Boards, list_devices
from hwautoml.errors import HwAutoMLError, InvalidValueError, TargetUnavailableError

ANSWER_SEC = 10.0  # for a board that is free, TVM's start included
BUSY = "busy with another client"


def agent(
    *,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    key: str | None = None,
    key_file: Path | None = None,
    tracker: str | None = None,
    on_listening: Callable[[Address], None] | None = None,
) -> None:
    """Let other machines measure and run networks on this one, one client at a time, until it is interrupted.

    Reachable from this machine only, unless ``host`` says otherwise, which needs a ``key``: given so, as the first line
    of ``key_file``, or in the environment (HWAUTOML_KEY). With ``tracker``
    (``host:port``) the board registers there, and ``key`` is the name under which its kind is asked for.

    Raises:
        InvalidValueError: no key where one is needed, or an address that cannot be listened on.
        MissingDependencyError: TVM or its RPC is not installed.
    """
    serve_agent(host, port, key=key_from(key, key_file), tracker=tracker, on_listening=on_listening)


def devices(*, device: str | None = None, tracker: str | None = None, key: str | None = None) -> list[dict[str, Any]]:
    """What boards there are, which are free, and what the free ones tell about themselves.

    ``device`` is one board's address and ``key`` its agent's key; ``tracker`` is asked for all of its boards, or
    those of one ``key``. Each row has ``address``, ``state`` (free, busy or unreachable), ``key`` and ``reports``,
    what ``conditions()`` of a free board says. A tracker does not tell which of its boards are the free ones,
    so its rows are kinds, with ``num_boards``, ``num_free`` and ``num_waiting``, and one report per free board.

    Raises:
        InvalidValueError: neither or both of device and tracker were given, or an address is malformed.
        TargetUnavailableError: no tracker answers.
    """
    if (device is None) == (tracker is None):
        raise InvalidValueError(
            "name one board or one tracker to ask, got " + ("neither" if device is None else "both"),
            fix="hwautoml devices --device host:port --key KEY, or: hwautoml devices --tracker host:port",
        )
    if device is not None:
        return [_ask_board(device, key or "")]
    assert tracker is not None
    return [_ask_kind(tracker, boards) for boards in list_devices(tracker) if key in (None, boards.key)]


def _ask_board(address: str, key: str) -> dict[str, Any]:
    row: dict[str, Any] = {"address": address, "key": None, "reports": [], "reason": None}
    with RpcDevice(address, key=key, connect_timeout_sec=ANSWER_SEC) as board:
        try:
            return row | {"state": "free", "reports": [board.conditions()]}
        except TargetUnavailableError as error:
            state = "busy" if BUSY in error.message else "unreachable"
            return row | {"state": state, "reason": str(error)}


def _ask_kind(tracker: str, boards: Boards) -> dict[str, Any]:
    reports, reason = _reports(tracker, boards)
    num_boards = len(boards.addresses)
    state = "free" if boards.num_free else ("busy" if num_boards else "unreachable")
    return {
        "address": ", ".join(boards.addresses),
        "key": boards.key,
        "state": state,
        "num_boards": num_boards,
        "num_free": boards.num_free,
        "num_waiting": boards.num_waiting,
        "reports": reports,
        "reason": reason,
    }


def _reports(tracker: str, boards: Boards) -> tuple[list[dict[str, object]], str | None]:
    """One of each free board: all are held until the last has answered, so that none answers twice."""
    reports: list[dict[str, object]] = []
    with ExitStack() as held:
        for _ in range(boards.num_free):
            board = held.enter_context(
                RpcDevice(tracker, key=boards.key, is_tracker=True, connect_timeout_sec=ANSWER_SEC, num_retries=0)
            )
            try:
                reports.append(board.conditions())
            except HwAutoMLError as error:
                return reports, error.message
    return reports, None
