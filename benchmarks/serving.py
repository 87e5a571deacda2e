"""Requests per second and latencies of a bundle's ``serve.py``, with one connection and with many.

    python benchmarks/serving.py [--bundle FOLDER] [--connections 1,100] [--seconds 5] [--slow 64]

Without ``--bundle`` a tiny linear model is bundled, so that what is timed is the service. The clients share this
machine with it. ``--slow`` adds connections that send a body a byte per second, beside which the others are timed
once more.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

NUM_PROCESSES = 2  # of clients: Python's own threads would be the limit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="default: a tiny one, written for the occasion")
    parser.add_argument("--connections", default="1,100", help="numbers of connections (default 1,100)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement (default 5)")
    parser.add_argument("--slow", type=int, default=64, help="slow clients beside the last ones (default 64, 0: none)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hwautoml-") as folder:
        bundle = options.bundle or tiny_bundle(Path(folder))
        image = some_image(bundle)
        with service(bundle) as port:
            for number in map(int, options.connections.split(",")):
                report(f"{number} connections", times_sec(port, image, number, options.seconds), options.seconds)
            if options.slow:
                with slow_clients(port, options.slow):
                    times = times_sec(port, image, number, options.seconds)
                report(f"{number} connections beside {options.slow} slow ones", times, options.seconds)


def report(name: str, times: list[float], seconds: float) -> None:
    if not times:
        print(f"{name}: no request was answered")
        return
    median, p99 = (1e3 * float(np.quantile(times, q)) for q in (0.5, 0.99))
    print(f"{name}: {len(times) / seconds:.0f} requests/s, median {median:.2f} ms, p99 {p99:.2f} ms")


def tiny_bundle(folder: Path) -> Path:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from hwautoml.bundles import write_bundle
    from hwautoml.tasks.classification import Classification

    weights = np.random.default_rng(0).normal(0, 0.02, (192, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["float", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [1, 8, 8, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(np.array([1, 192]), "shape"), numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "tiny.onnx")
    return write_bundle(
        folder / "bundle",
        onnx_path=folder / "tiny.onnx",
        task=Classification(("a", "b", "c")),
        resolution=8,
        channels=3,
        accuracy={},
        latency={},
        conditions={},
        architecture={},
        parity={},
    )


def some_image(bundle: Path) -> bytes:
    """A PNG of the training images' size."""
    from PIL import Image

    side = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["input"]["image_size"]
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@contextlib.contextmanager
def service(bundle: Path) -> Iterator[int]:
    """Its port."""
    command = [sys.executable, str(bundle / "serve.py"), "--port", "0", "--quiet"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    found = re.search(r"http://[^ ]+:(\d+) with", process.stderr.readline())
    assert found is not None
    try:
        yield int(found[1])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def times_sec(port: int, image: bytes, connections: int, seconds: float) -> list[float]:
    """Of every answered request within ``seconds``."""
    shares = [len(range(i, connections, NUM_PROCESSES)) for i in range(min(NUM_PROCESSES, connections))]
    with multiprocessing.get_context("fork").Pool(len(shares)) as pool:
        parts = pool.starmap(_share, [(port, image, share, seconds) for share in shares])
    return [value for part in parts for value in part]


def _share(port: int, image: bytes, connections: int, seconds: float) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    threads = [threading.Thread(target=_ask, args=(port, image, end, times)) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


def _ask(port: int, image: bytes, end: float, times: list[float]) -> None:
    """One connection; a bare socket, whose cost is small beside the service's."""
    request = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(image) + image
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        while time.perf_counter() < end:
            began = time.perf_counter()
            client.sendall(request)
            answer = b""
            while not _is_whole(answer):
                received = client.recv(65536)
                if not received:
                    return
                answer += received
            if answer.startswith(b"HTTP/1.1 200"):
                times.append(time.perf_counter() - began)
            else:  # told to come again, and disconnected
                return


def _is_whole(answer: bytes) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    return bool(found) and length is not None and len(body) >= int(length[1])


@contextlib.contextmanager
def slow_clients(port: int, number: int) -> Iterator[None]:
    clients = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(number)]
    ended = threading.Event()

    def trickle() -> None:
        while not ended.wait(1.0):
            for client in clients:
                with contextlib.suppress(OSError):
                    client.sendall(b"x")

    for client in clients:
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for client in clients:
            client.close()


if __name__ == "__main__":
    main()
