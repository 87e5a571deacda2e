"""Verbs ``agent`` and ``boards``: lend this machine to others for measuring, and see which boards there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwautoml.core import json_form
from hwautoml.core.board import Board
from hwautoml.devices.address import Address
from hwautoml.devices.agent import DEFAULT_PORT, key_from, serve_agent
from hwautoml.devices.rpc import RpcDevice
from hwautoml.devices.tracker import Boards, list_devices
from hwautoml.errors import HwAutoMLError, InvalidValueError, TargetUnavailableError

ANSWER_SEC = 10.0  # for a board that is free, TVM's start included
BUSY = "busy with another client"


@dataclass(frozen=True)
class BoardStatus:
    """One board, or all boards of one kind at a tracker, which does not tell which of them are the free ones.

    ``state`` is free, busy or unreachable, ``reason`` why it is not free where that is known. ``reports`` are what
    ``conditions()`` of each free board says. The counts are a tracker's: None for a board by its address.
    """

    address: str
    key: str | None
    state: str
    reports: tuple[Mapping[str, Any], ...] = ()
    reason: str | None = None
    num_boards: int | None = None
    num_free: int | None = None
    num_waiting: int | None = None

    def to_json(self) -> dict[str, Any]:
        data = json_form.to_json(self)
        return data if self.num_boards is not None else {n: v for n, v in data.items() if not n.startswith("num_")}


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


def boards(*, device: str | None = None, tracker: str | None = None, key: str | None = None) -> tuple[BoardStatus, ...]:
    """What boards there are, which are free, and what the free ones tell about themselves.

    ``device`` is one board's address and ``key`` its agent's key; ``tracker`` is asked for all of its boards, or
    those of one ``key``.

    Raises:
        InvalidValueError: neither or both of device and tracker were given, or an address is malformed.
        TargetUnavailableError: no tracker answers.
    """
    if (device is None) == (tracker is None):
        raise InvalidValueError(
            "name one board or one tracker to ask, got " + ("neither" if device is None else "both"),
            fix="hwautoml boards --device host:port --key KEY, or: hwautoml boards --tracker host:port",
        )
    board = Board(device, tracker, key)
    if board.device is not None:
        return (_ask_board(board),)
    known = list_devices(board.address)
    return tuple(_ask_kind(board.address, kind) for kind in known if board.key in (None, kind.key))


def _ask_board(board: Board) -> BoardStatus:
    address = board.address
    with RpcDevice(address, key=board.key or "", connect_timeout_sec=ANSWER_SEC) as opened:
        try:
            return BoardStatus(address, None, "free", (opened.conditions(),))
        except TargetUnavailableError as error:
            state = "busy" if BUSY in error.message else "unreachable"
            return BoardStatus(address, None, state, reason=str(error))


def _ask_kind(tracker: str, kind: Boards) -> BoardStatus:
    reports, reason = _reports(tracker, kind)
    num_boards = len(kind.addresses)
    return BoardStatus(
        ", ".join(kind.addresses),
        kind.key,
        "free" if kind.num_free else ("busy" if num_boards else "unreachable"),
        reports,
        reason,
        num_boards,
        kind.num_free,
        kind.num_waiting,
    )


def _reports(tracker: str, kind: Boards) -> tuple[tuple[Mapping[str, Any], ...], str | None]:
    """One of each free board: all are held until the last has answered, so that none answers twice."""
    reports: list[Mapping[str, Any]] = []
    with ExitStack() as held:
        for _ in range(kind.num_free):
            board = held.enter_context(
                RpcDevice(tracker, key=kind.key, is_tracker=True, connect_timeout_sec=ANSWER_SEC, num_retries=0)
            )
            try:
                reports.append(board.conditions())
            except HwAutoMLError as error:
                return tuple(reports), error.message
    return tuple(reports), None
