"""``serve.py`` as its users run it: a process that is asked over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hwautoml.bundles import write_bundle
from hwautoml.tasks.classification import Classification

IMAGE = np.random.default_rng(5).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def png(pixels: np.ndarray = IMAGE) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def start(folder: Path, *options: str) -> tuple[subprocess.Popen[str], int]:
    """The process and its port."""
    command = [sys.executable, str(folder / "serve.py"), "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd="/")
    assert process.stderr is not None
    line = process.stderr.readline()
    match = re.search(r"serving on http://127\.0\.0\.1:(\d+) with onnxruntime", line)
    assert match is not None, line
    return process, int(match[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import onnx

    from tests.bundles.conftest import CLASSES, RESOLUTION, _model

    base = tmp_path_factory.mktemp("served")
    onnx.save(_model(3), base / "tiny.onnx")
    return write_bundle(
        base / "bundle",
        onnx_path=base / "tiny.onnx",
        task=Classification(tuple(CLASSES)),
        resolution=RESOLUTION,
        channels=3,
        accuracy={},
        latency={},
        conditions={},
        architecture={"id": "abc"},
        parity={},
    )


@pytest.fixture(scope="module")
def port(folder: Path) -> Iterator[int]:
    process, port = start(folder, "--max-request-mb", "1", "--quiet")
    yield port
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0


def ask(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, json.loads(content) if answer.headers["Content-Type"] == "application/json" else content


def test_predictions_are_the_models(port: int, folder: Path, infer: Callable[[Path, np.ndarray], np.ndarray]) -> None:
    status, found = ask(port, "POST", "/predict?top=2", png())
    wanted = infer(folder / "model.onnx", IMAGE)
    assert status == 200 and found["runtime"] == "onnxruntime" and found["inference_ms"] > 0
    assert [p["probability"] for p in found["predictions"]] == pytest.approx(sorted(wanted, reverse=True)[:2])
    assert found["predictions"][0]["class"] == ("bird", "cat", "déjà vu")[int(wanted.argmax())]


def test_many_at_once_get_their_own_answers(port: int, folder: Path, infer: Callable[..., np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(24)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda image: ask(port, "POST", "/predict?top=1", png(image)), images))
    for image, (status, found) in zip(images, answers, strict=True):
        assert status == 200
        best = infer(folder / "model.onnx", image).max()
        assert found["predictions"][0]["probability"] == pytest.approx(best)


def test_health_and_metrics(port: int) -> None:
    assert ask(port, "GET", "/health") == (200, {"status": "ok", "model": "abc", "runtime": "onnxruntime"})
    ask(port, "POST", "/predict", png())
    status, text = ask(port, "GET", "/metrics")
    values = dict(line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#"))
    assert status == 200 and float(values['hwautoml_requests_total{path="/predict",status="200"}']) >= 1
    count = int(values["hwautoml_inference_seconds_count"])
    buckets = [int(v) for k, v in values.items() if k.startswith("hwautoml_inference_seconds_bucket")]
    assert count >= 1 and buckets == sorted(buckets) and buckets[-1] == count


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", "/predict", b"no image", 400, "is not an image in a known format"),
        ("POST", "/predict", b"", 400, "is not an image in a known format"),
        ("POST", "/predict?top=0", b"x", 400, "top must be 1 to 3, got '0'"),
        ("POST", "/predict?top=many", b"x", 400, "top must be 1 to 3, got 'many'"),
        ("POST", "/predict", b"x" * (30 << 20), 413, "at most 1048576 bytes are taken, got 31457280"),
        ("POST", "/predict", b"x" * (2**20 + 1), 413, "at most 1048576 bytes are taken, got 1048577"),
        ("POST", "/elsewhere", b"x", 404, "images are taken at /predict"),
        ("GET", "/../manifest.json", None, 404, "there are /predict, /health and /metrics"),
        ("GET", "/predict", None, 405, "POST an image file"),
    ],
)
def test_what_cannot_be_answered(
    port: int, method: str, path: str, body: bytes | None, status: int, message: str
) -> None:
    found, answer = ask(port, method, path, body)
    assert found == status and message in answer["error"]
    assert ask(port, "GET", "/health")[0] == 200


def test_a_body_of_unknown_length_is_refused(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 411 ")


def test_it_listens_on_this_machine_only(port: int) -> None:
    """/proc/net/tcp: 0100007F is 127.0.0.1."""
    lines = Path("/proc/net/tcp").read_text(encoding="utf-8").splitlines()[1:]
    addresses = [line.split()[1] for line in lines if line.split()[3] == "0A"]
    assert [a for a in addresses if a.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]


def test_a_port_that_is_taken(folder: Path, port: int) -> None:
    command = [sys.executable, str(folder / "serve.py"), "--port", str(port)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ}, timeout=60)
    assert done.returncode == 1 and f"cannot listen on 127.0.0.1:{port}" in done.stderr


def test_two_classes_are_served_without_asking_for_fewer(tmp_path: Path) -> None:
    """The default is three, or as many as there are."""
    import onnx

    from tests.bundles.conftest import RESOLUTION, _model

    onnx.save(_model(3, 2), tmp_path / "two.onnx")
    folder = write_bundle(
        tmp_path / "bundle",
        onnx_path=tmp_path / "two.onnx",
        task=Classification(("a", "b")),
        resolution=RESOLUTION,
        channels=3,
        accuracy={},
        latency={},
        conditions={},
        architecture={"id": "abc"},
        parity={},
    )
    process, port = start(folder)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/predict", data=png(), timeout=20) as response:
            assert {p["class"] for p in json.loads(response.read())["predictions"]} == {"a", "b"}
    finally:
        process.terminate()
        process.communicate()


def test_a_changed_model_is_not_served(tmp_path: Path, folder: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "model.onnx").write_bytes(b"other")
    done = subprocess.run([sys.executable, str(copy / "serve.py")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 10 and "is not the file this bundle was made with" in done.stderr


def test_a_body_that_is_not_read_ends_the_connection(port: int) -> None:
    """Or it would be taken for the next request on it."""
    hidden = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        head = b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(hidden)
        client.sendall(head + hidden)
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.count(b"HTTP/1.1 200") == 1 and b"Connection: close" in answer and b"hwautoml_requests" not in answer


def test_it_ends_though_clients_keep_their_connections(folder: Path) -> None:
    process, port = start(folder, "--quiet")
    idle, busy = (http.client.HTTPConnection("127.0.0.1", port, timeout=10) for _ in range(2))
    ended = threading.Event()

    def scrape() -> None:
        with contextlib.suppress(ConnectionError, http.client.HTTPException):
            while not ended.is_set():
                busy.request("GET", "/metrics")
                busy.getresponse().read()

    idle.request("GET", "/health")
    idle.getresponse().read()
    scraper = threading.Thread(target=scrape)
    scraper.start()
    process.send_signal(signal.SIGTERM)
    try:
        assert process.wait(timeout=8) == 0
    finally:
        ended.set()
        process.kill()
        scraper.join()
    idle.close()
