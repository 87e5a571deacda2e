"""``serve.py`` against clients that are slow, leave, or send what two readers would read differently."""

from __future__ import annotations

import contextlib
import io
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

MANIFEST = {
    "classes": ["a", "b"],
    "input": {"resolution": 8, "image_size": 8, "channels": 3},
    "architecture": {"id": "x"},
}


def png(side: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def serve() -> ModuleType:
    from hwautoml.bundles.runner import serve

    return serve


@pytest.fixture
def port(serve: ModuleType) -> Iterator[int]:
    """A service in this process with a model that takes no time."""
    service = serve.Service(MANIFEST, "onnxruntime", lambda images: np.array([[0.25, 0.75]]), max_pixels=100 * 100)
    server = serve.make_server(service, "127.0.0.1", 0, 1 << 20, is_quiet=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server.server_port
    server.stop()
    thread.join()
    server.server_close()


def post(body: bytes, *lines: bytes, path: bytes = b"/predict") -> bytes:
    head = [b"POST " + path + b" HTTP/1.1", b"Host: x", *(lines or (b"Content-Length: %d" % len(body),))]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def read_answer(client: socket.socket) -> tuple[int, Any]:
    received = b""
    while b"\r\n\r\n" not in received:
        part = client.recv(65536)
        assert part, received
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    assert length is not None, head
    while len(body) < int(length[1]):
        body += client.recv(65536)
    return int(head.split()[1]), json.loads(body)


def ask(port: int, request: bytes) -> tuple[int, Any]:
    """The answer; whatever else is answered on the connection afterwards fails the test."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(request)
        answer = read_answer(client)
        if answer[0] != 200:
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(65536) == b"", "the connection went on after a refusal"
        return answer


def test_a_connection_answers_without_nagles_delay(port: int) -> None:
    """Two small writes would wait for the client's delayed acknowledgement, 40 ms for each request."""
    times = []
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        for _ in range(30):
            began = time.perf_counter()
            client.sendall(post(png()))
            assert read_answer(client)[0] == 200
            times.append(time.perf_counter() - began)
    assert sorted(times)[15] < 0.02


SMUGGLED = post(png())


@pytest.mark.parametrize(
    ("request_bytes", "status", "message"),
    [
        (post(SMUGGLED, b"Content-Length: 0", b"Content-Length: %d" % len(SMUGGLED)), 400, "has one Content-Length"),
        (post(SMUGGLED, b"Content-Length: 0", b"content-length: 0"), 400, "has one Content-Length, this one has 2"),
        (post(SMUGGLED, b"Content-Length : 5", b"Content-Length: 0"), 400, "a line that is no header"),
        (post(SMUGGLED, b"Content-Length: " + b"9" * 5000), 400, "at most 15 digits"),
        (post(SMUGGLED, b"Content-Length: -1"), 400, "at most 15 digits, got '-1'"),
        (post(SMUGGLED, b"Content-Length: 1_0"), 400, "at most 15 digits, got '1_0'"),
        (post(SMUGGLED, b"Content-Length: 5", b"Transfer-Encoding: chunked"), 411, "with a Content-Length"),
        (post(png(), path=b"/predict?top=" + b"1" * 5000), 400, "top must be 1 to 2"),
        (post(png(), path=b"http://[::1/predict"), 400, "address is malformed"),
        (b"GET http://[::1/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, "address is malformed"),
        (post(png(101)), 400, "101 x 101 pixels, at most 10000 are taken"),
    ],
)
def test_requests_that_are_refused(
    port: int, capfd: pytest.CaptureFixture[str], request_bytes: bytes, status: int, message: str
) -> None:
    found, content = ask(port, request_bytes)
    assert found == status and message in content["error"]
    assert ask(port, post(png()))[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_a_form_is_refused_as_no_image(port: int) -> None:
    """Not as a malformed head, which Python's parser takes the missing parts of a form for."""
    body = b'--b\r\nContent-Disposition: form-data; name="f"\r\n\r\nx\r\n--b--\r\n'
    form = post(body, b"Content-Type: multipart/form-data; boundary=b", b"Content-Length: %d" % len(body))
    assert ask(port, form) == (400, {"error": "the request's body is not an image in a known format"})


def test_a_client_that_waits_to_be_told_to_go_on_is_told(port: int) -> None:
    """curl does before it sends a large body."""
    body = png()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(post(b"", b"Content-Length: %d" % len(body), b"Expect: 100-continue"))
        assert client.recv(100).startswith(b"HTTP/1.1 100 Continue")
        client.sendall(body)
        assert read_answer(client)[0] == 200


def test_slow_bodies_keep_nobody_waiting(port: int, serve: ModuleType) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(serve.MAX_WAITING + 20):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            slow.sendall(post(b"x", b"Content-Length: 100000"))
        for _ in range(5):
            assert ask(port, post(png()))[0] == 200


def test_of_too_many_connections_the_slowest_gives_way(
    port: int, serve: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "MAX_CONNECTIONS", 4)
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in range(8)]
        for client in slow:
            client.sendall(post(b"x", b"Content-Length: 100000"))
            time.sleep(0.02)
        assert ask(port, post(png()))[0] == 200
        status, content = read_answer(slow[0])
        assert status == 400 and "the body ended after 1 of 100000 bytes" in content["error"]


def test_a_request_has_one_deadline_however_it_trickles_in(
    port: int, serve: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "REQUEST_SEC", 0.6)
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(post(b"", b"Content-Length: 1000"))
        client.settimeout(0.05)
        answer = b""
        while not answer and time.monotonic() - began < 8:
            client.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                answer = client.recv(65536)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert 0.5 < time.monotonic() - began < 5


def _leave_early(client: socket.socket) -> None:
    client.sendall(post(png())[:-20])


def _leave_before_the_answer(client: socket.socket) -> None:
    client.sendall(post(png()) * 50)


def _reset(client: socket.socket) -> None:
    client.sendall(post(png())[:40])
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")


@pytest.mark.parametrize("leave", [_leave_early, _leave_before_the_answer, _reset])
def test_clients_that_leave_leave_no_traceback(
    port: int, capfd: pytest.CaptureFixture[str], leave: Callable[[socket.socket], None]
) -> None:
    for _ in range(10):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            leave(client)
    time.sleep(0.3)
    assert ask(port, post(png()))[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_the_end_does_not_wait_for_slow_bodies(serve: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "STOPPING_SEC", 0.3)
    service = serve.Service(MANIFEST, "onnxruntime", lambda images: np.array([[0.25, 0.75]]))
    server = serve.make_server(service, "127.0.0.1", 0, 1 << 20, is_quiet=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as client:
        client.sendall(post(b"x", b"Content-Length: 100000"))
        time.sleep(0.1)
        began = time.monotonic()
        server.stop()
        server.server_close()  # waits for the threads
        assert time.monotonic() - began < 5
    thread.join()


@pytest.mark.faults
def test_random_requests_neither_crash_nor_hang_it(port: int, capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    valid = post(png())
    for _ in range(2000):
        data = bytearray(valid)
        for _ in range(rng.integers(1, 6)):
            kind, place = rng.integers(3), int(rng.integers(len(data)))
            if kind == 0:
                data[place] = int(rng.integers(256))
            elif kind == 1:
                del data[place : place + int(rng.integers(1, 30))]
            else:
                data[place:place] = rng.bytes(int(rng.integers(1, 30)))
            data = data or bytearray(b"x")
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client, contextlib.suppress(OSError):
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass
    assert ask(port, post(png()))[0] == 200
    assert "Traceback" not in capfd.readouterr().err
