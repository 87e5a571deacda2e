"""Addresses, the tracker's protocol and the agent's door, without TVM."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwautoml.devices import agent
from hwautoml.devices.address import Address
from hwautoml.devices.rpc import RpcDevice
from hwautoml.devices.tracker import Boards, list_devices
from hwautoml.errors import InvalidValueError, TargetUnavailableError

TRACKER_MAGIC, SERVER_MAGIC = 0x2F271, 0xFF271
HOSTS = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", fullmatch=True) | st.ip_addresses().map(str)


@given(HOSTS, st.integers(1, 65535))
def test_addresses_are_read_as_written(host: str, port: int) -> None:
    assert Address.parse(str(Address(host, port))) == Address(host, port)


@given(st.text(max_size=30))
def test_an_address_is_read_or_refused(text: str) -> None:
    try:
        address = Address.parse(text)
    except InvalidValueError as error:
        assert repr(text) in error.message
    else:
        assert address.host and 0 < address.port < 65536


@pytest.mark.parametrize(
    "text", ["", "9090", "board", "board:", ":9090", "board:0", "board:65536", "board:-1", "::1:9090", "a b:1", "b:٣"]
)
def test_malformed_addresses_are_refused(text: str) -> None:
    with pytest.raises(InvalidValueError, match="host:port"):
        RpcDevice(text)


def test_loopback_is_known_by_its_numbers() -> None:
    assert all(Address(host, 1).is_loopback for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"))
    assert not any(Address(host, 1).is_loopback for host in ("0.0.0.0", "::", "192.168.1.5", "localhost.example"))
    assert str(Address(str(IPv6Address(1)), 90)) == "[::1]:90"


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"host": "0.0.0.0"}, "without a key would let everyone"),
        ({"host": "::"}, "without a key would let everyone"),
        ({"host": "0.0.0.0", "tracker": "10.0.0.1:9190"}, "without a key"),
        ({"key": "two words"}, "a key consists of"),
        ({"tracker": "127.0.0.1:9190"}, "hands boards out by key"),
        ({"key": "rpi4", "tracker": "10.0.0.1:9190"}, "listens on 127.0.0.1 only"),
        ({"key": "rpi4", "tracker": "nonsense"}, "host:port"),
    ],
)
def test_an_agent_opens_no_door_by_accident(arguments: dict[str, str], match: str) -> None:
    with pytest.raises(InvalidValueError, match=match):
        agent.serve_agent(**arguments)  # type: ignore[arg-type]


def test_the_command_refuses_with_the_reason() -> None:
    command = [sys.executable, "-m", "hwautoml.devices.agent", "--host", "0.0.0.0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == InvalidValueError.exit_code
    assert "run code on it" in done.stderr and "--key SECRET" in done.stderr and "Traceback" not in done.stderr


def test_an_occupied_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InvalidValueError, match="in use"):
        agent.serve_agent(port=taken.getsockname()[1])


def introduction(key: bytes, num_bytes: int | None = None) -> bytes:
    return struct.pack("<ii", SERVER_MAGIC, len(key) if num_bytes is None else num_bytes) + key


@pytest.mark.parametrize(
    ("sent", "is_complete"),
    [
        (introduction(b"client:key"), True),
        (introduction(b""), True),
        (b"", False),
        (b"GET / HTTP/1.1\r\n\r\n", False),
        (introduction(b"client:key")[:-1], False),
        (introduction(b"client:key", 2**31 - 1), False),
        (introduction(b"client:key", -1), False),
    ],
)
@pytest.mark.parametrize("is_closed", [False, True])
def test_the_door_closes_on_the_silent(
    monkeypatch: pytest.MonkeyPatch, sent: bytes, is_complete: bool, is_closed: bool
) -> None:
    monkeypatch.setattr(agent, "_INTRODUCTION_SEC", 1)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(sent)
        if is_closed:
            theirs.close()
        assert agent._introduces_itself(ours) is is_complete
        if is_complete:
            assert ours.recv(len(sent)) == sent  # left for TVM to read


@contextmanager
def tracker_that_sends(answers: bytes) -> Iterator[str]:
    def serve() -> None:
        connection, _ = listener.accept()
        with connection, suppress(ConnectionResetError):
            connection.sendall(answers)
            while connection.recv(4096):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def told(answer: object) -> bytes:
    text = json.dumps(answer).encode()
    return struct.pack("<ii", TRACKER_MAGIC, len(text)) + text


def test_boards_are_grouped_by_key() -> None:
    summary = {
        "queue_info": {"rpi4": {"free": 1, "pending": 0}, "orin": {"free": 0, "pending": 2}},
        "server_info": [
            {"key": "server:rpi4", "addr": ["10.0.0.3", 9090]},
            {"key": "server:rpi4", "addr": ["10.0.0.2", 9090]},
            {"key": "server:new", "addr": ["10.0.0.4", 9091]},
        ],
    }
    with tracker_that_sends(told([0, summary])) as address:
        assert list_devices(address) == [
            Boards("new", ("10.0.0.4:9091",), 0, 0),
            Boards("orin", (), 0, 2),
            Boards("rpi4", ("10.0.0.2:9090", "10.0.0.3:9090"), 1, 0),
        ]


@pytest.mark.parametrize(
    "answers",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        struct.pack("<ii", TRACKER_MAGIC, 2**31 - 1),
        struct.pack("<ii", TRACKER_MAGIC, 5) + b"\xff{}[]",
        told([-1, None]),
        told("no list"),
        told([0, None]),
        told([0, {"queue_info": {}}]),
        told([0, {"queue_info": ["a"], "server_info": []}]),
        told([0, {"queue_info": {"a": 1}, "server_info": [3]}]),
        told([0, {"queue_info": {"a": {"free": "many"}}, "server_info": []}]),
    ],
)
def test_what_is_no_tracker_is_named(answers: bytes) -> None:
    with tracker_that_sends(answers) as address, pytest.raises(TargetUnavailableError, match=address) as caught:
        list_devices(address)
    assert caught.value.fix is not None and "rpc_tracker" in caught.value.fix


def test_a_missing_tracker_is_one_quick_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with (
            RpcDevice(address, key="rpi4", is_tracker=True) as device,
            pytest.raises(TargetUnavailableError, match=f"no tracker answers at {address}"),
        ):
            device.conditions()


@pytest.mark.parametrize("numbers", [{"num_threads": 0}, {"num_retries": -1}, {"connect_timeout_sec": 0}])
def test_devices_check_their_numbers(numbers: dict[str, int]) -> None:
    with pytest.raises(InvalidValueError, match="must hold"):
        RpcDevice("127.0.0.1:9090", **numbers)  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match="by key"):
        RpcDevice("127.0.0.1:9090", is_tracker=True)
