"""What a TVM RPC tracker knows: which boards there are, and which of them are free.

The tracker's own protocol, a length and JSON either way, is spoken here in a few lines: importing
TVM to ask one question would take seconds.
"""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass
from typing import Any

from hwautoml.devices.address import Address
from hwautoml.errors import TargetUnavailableError

_TIMEOUT_SEC = 10.0
_MAGIC, _SUMMARY, _SUCCESS = 0x2F271, 6, 0  # tvm.rpc.base: RPC_TRACKER_MAGIC, TrackerCode.SUMMARY and SUCCESS
_MAX_ANSWER_BYTES = 1 << 24


@dataclass(frozen=True)
class Boards:
    """All boards that registered under one key; ``num_waiting`` clients wait for one of them."""

    key: str
    addresses: tuple[str, ...]
    num_free: int
    num_waiting: int


def list_devices(tracker: str, *, timeout_sec: float = _TIMEOUT_SEC) -> list[Boards]:
    """Sorted by key; a key that is only waited for has no addresses.

    Raises:
        InvalidValueError: ``tracker`` is not ``host:port``.
        TargetUnavailableError: nothing, or something that is no tracker, listens there.
    """
    address = Address.parse(tracker)
    try:
        with socket.create_connection((address.host, address.port), timeout=timeout_sec) as connection:
            summary = _summary(connection)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:  # the latter: not a summary
        raise TargetUnavailableError(
            f"no tracker answers at {address}: {error}",
            fix="start one there: python -m tvm.exec.rpc_tracker "
            f"--host {address.host} --port {address.port} --port-end {address.port + 1}",
        ) from error
    return summary


def _summary(connection: socket.socket) -> list[Boards]:
    connection.sendall(struct.pack("<i", _MAGIC))
    if struct.unpack("<i", _receive(connection, 4))[0] != _MAGIC:
        raise ValueError("it is not a TVM RPC tracker")
    question = json.dumps([_SUMMARY]).encode()
    connection.sendall(struct.pack("<i", len(question)) + question)
    size = struct.unpack("<i", _receive(connection, 4))[0]
    if not 0 < size <= _MAX_ANSWER_BYTES:
        raise ValueError(f"its answer is said to have {size} bytes")
    code, summary = json.loads(_receive(connection, size))
    if code != _SUCCESS:
        raise ValueError(f"it answered with code {code}")
    return _boards(summary)


def _boards(summary: dict[str, Any]) -> list[Boards]:
    queues, servers = summary["queue_info"], summary["server_info"]
    addresses: dict[str, list[str]] = {str(key): [] for key in queues}
    for server in servers:
        key = str(server["key"]).removeprefix("server:")
        addresses.setdefault(key, []).append(":".join(map(str, server["addr"])))
    return [
        Boards(
            key,
            tuple(sorted(addresses[key])),
            int(queues.get(key, {}).get("free", 0)),
            int(queues.get(key, {}).get("pending", 0)),
        )
        for key in sorted(addresses)
    ]


def _receive(connection: socket.socket, num_bytes: int) -> bytes:
    received = bytearray()
    while len(received) < num_bytes:
        part = connection.recv(min(num_bytes - len(received), 65536))
        if not part:
            raise ConnectionError("it closed the connection")
        received += part
    return bytes(received)
