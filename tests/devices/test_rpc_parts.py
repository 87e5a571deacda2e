"""Addresses, the tracker's protocol and the agent's door, without TVM."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import IPv6Address
from pathlib import Path

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


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.setattr(agent, "_INTRODUCTION_SEC", 0.5)
    with agent._listener("127.0.0.1", 0) as listener:
        yield listener


def knock(door: socket.socket, sent: bytes = b"") -> socket.socket:
    client = socket.create_connection(door.getsockname(), timeout=5)
    client.sendall(sent)
    return client


def is_turned_away(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:  # what it had sent was not read
        return True


@pytest.mark.parametrize(
    ("sent", "is_let_in"),
    [
        (introduction(b"client:key"), True),
        (introduction("client:ü".encode()), True),
        (introduction(b""), False),  # these three end TVM's server
        (introduction(b"  "), False),
        (introduction(b"client:\xff"), False),
        (b"", False),
        (b"GET / HTTP/1.1\r\n\r\n", False),
        (introduction(b"client:key")[:3], False),
        (introduction(b"client:key")[:-1], False),
        (introduction(b"client:key", 2**31 - 1), False),
        (introduction(b"client:key", -1), False),
    ],
)
@pytest.mark.parametrize("is_closed", [False, True])
def test_only_who_names_a_key_is_let_in(door: socket.socket, sent: bytes, is_let_in: bool, is_closed: bool) -> None:
    with knock(door, sent) as client:
        if is_closed:
            client.shutdown(socket.SHUT_WR)
        if is_let_in:
            connection, _ = door.accept()
            assert connection.getblocking() and connection.recv(len(sent)) == sent  # left for TVM to read
            connection.close()
        else:
            with pytest.raises(ConnectionAbortedError):
                door.accept()
            assert is_turned_away(client)


def test_the_silent_hold_nobody_up(door: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "_INTRODUCTION_SEC", 30)
    with ExitStack() as stack:
        for number in range(40):
            stack.enter_context(knock(door, introduction(b"client:key")[: number % 12]))
        owner = stack.enter_context(knock(door))
        threading.Timer(0.2, owner.sendall, [introduction(b"client:key")[:9]]).start()
        threading.Timer(0.4, owner.sendall, [introduction(b"client:key")[9:]]).start()
        began = time.monotonic()
        connection, address = door.accept()
        assert time.monotonic() - began < 3 and address == owner.getsockname()
        connection.close()


def test_of_too_many_silent_ones_the_oldest_leave(door: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "_INTRODUCTION_SEC", 30)
    monkeypatch.setattr(agent, "_MAX_WAITING", 4)
    with ExitStack() as stack:
        silent = [stack.enter_context(knock(door)) for _ in range(8)]
        stack.enter_context(knock(door, introduction(b"client:key")))
        door.accept()[0].close()
        assert len(door._waiting) <= 4 and is_turned_away(silent[0])  # type: ignore[attr-defined]


def test_the_key_may_lie_in_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("SECRET\nmore\n")
    assert agent.key_from(None, tmp_path / "key") == "SECRET"
    assert agent.key_from(None, None) == "" and agent.key_from("given", None) == "given"
    monkeypatch.setenv("HWAUTOML_KEY", "FROM-ENVIRONMENT")
    assert agent.key_from(None, None) == "FROM-ENVIRONMENT" and agent.key_from("given", None) == "given"
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "bytes").write_bytes(b"\xff")
    for file, match in (("empty", "holds no key"), ("bytes", "cannot read a key"), ("none", "No such file")):
        with pytest.raises(InvalidValueError, match=match):
            agent.key_from(None, tmp_path / file)
    with pytest.raises(InvalidValueError, match="are two keys"):
        agent.key_from("given", tmp_path / "key")


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
