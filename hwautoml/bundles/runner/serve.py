#!/usr/bin/env python3
"""Serve the model in this folder over HTTP.

    python serve.py [--host 127.0.0.1] [--port 8080] [--runtime onnxruntime|tvm] [--threads N]

    curl --data-binary @photo.jpg http://127.0.0.1:8080/predict?top=3

POST /predict   an image file as the body; JSON with what run.py --json says of it
GET  /health    200 once the model answers
GET  /metrics   counters and latencies in Prometheus' text format

Needs what run.py needs, which lies beside it. It has no access control: it listens on this machine only unless
told otherwise, and belongs behind a proxy elsewhere. Ends on SIGTERM and Ctrl-C after the requests in progress.

Exit codes: as of run.py, and 1 when the port cannot be used.
"""

import sys

if __name__ == "__main__" and not getattr(sys.flags, "safe_path", sys.flags.isolated):
    del sys.path[0]  # this folder: whatever else may lie in it is not imported

import argparse
import contextlib
import email.errors
import io
import json
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit


def _beside(name: str) -> ModuleType:
    """The program beside this one, wherever it is started from."""
    path, module = Path(__file__).resolve().with_name(f"{name}.py"), ModuleType(name)
    module.__file__ = str(path)
    exec(
        compile(path.read_bytes(), path, "exec"), vars(module)
    )  # never a __pycache__ that lies there, and none is left
    return module


run = _beside("run")

LATENCY_BOUNDS_SEC = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
IDLE_SEC = 20.0  # a connection without a request
REQUEST_SEC = 60.0  # from a request's first byte to its last, however it trickles in
ANSWER_SEC = 20.0  # to take the answer
STOPPING_SEC = 5.0  # what a request that is still being sent gets once the service ends
MAX_DISCARDED_BYTES = 64 << 20
MAX_WAITING = 128  # whole requests at once; more are told to come again
MAX_CONNECTIONS = 256  # of more, the one that has been silent or sending for longest gives way
MAX_DECODING = 2  # images at once: a large one takes hundreds of megabytes
NUMBER = re.compile(r"[0-9]{1,15}")
Classify = Callable[[Any], Any]
NO_HEADERS = (  # lines of a request's head that Python passes over, and others may not
    email.errors.MissingHeaderBodySeparatorDefect,
    email.errors.FirstHeaderLineIsContinuationDefect,
    email.errors.MisplacedEnvelopeHeaderDefect,
    email.errors.InvalidHeaderDefect,
)


class Service:
    """The model, used by one request at a time, and what was counted."""

    def __init__(
        self, manifest: dict[str, Any], runtime: str, classify: Classify, max_pixels: int | None = None
    ) -> None:
        self.manifest, self.runtime, self.max_pixels = manifest, runtime, max_pixels
        self._classify, self._lock = classify, threading.Lock()
        self.slots, self._decoding = threading.BoundedSemaphore(MAX_WAITING), threading.BoundedSemaphore(MAX_DECODING)
        self._counts: Counter[tuple[str, int]] = Counter()
        self._buckets: Counter[float] = Counter()
        self._num_inferences, self._seconds = 0, 0.0
        self._started = time.time()

    def predict(self, data: bytes, top: int) -> dict[str, Any]:
        with self._decoding:
            image = run.decode_image(data, "the request's body", self.manifest, self.max_pixels)
        with self._lock:
            began = time.perf_counter()
            outputs = self._classify(image)[0]
            seconds = time.perf_counter() - began
            self._num_inferences += 1
            self._seconds += seconds
            self._buckets.update(bound for bound in LATENCY_BOUNDS_SEC if seconds <= bound)
        predictions = run.answers(outputs, self.manifest, top)
        return {"predictions": predictions, "runtime": self.runtime, "inference_ms": 1e3 * seconds}

    def count(self, path: str, status: int) -> None:
        with self._lock:
            self._counts[path, status] += 1

    def health(self) -> dict[str, Any]:
        architecture = self.manifest["architecture"].get("id")
        return {"status": "ok", "model": architecture, "runtime": self.runtime}

    def metrics(self) -> str:
        with self._lock:
            counts, buckets = sorted(self._counts.items()), dict(self._buckets)
            number, seconds = self._num_inferences, self._seconds
        name = "hwautoml_inference_seconds"
        lines = ["# HELP hwautoml_requests_total Answered requests.", "# TYPE hwautoml_requests_total counter"]
        lines += [f'hwautoml_requests_total{{path="{p}",status="{status}"}} {n}' for (p, status), n in counts]
        lines += [f"# HELP {name} Time in the model, without decoding the image.", f"# TYPE {name} histogram"]
        lines += [f'{name}_bucket{{le="{bound:g}"}} {buckets.get(bound, 0)}' for bound in LATENCY_BOUNDS_SEC]
        lines += [f'{name}_bucket{{le="+Inf"}} {number}', f"{name}_sum {seconds:.9g}", f"{name}_count {number}"]
        lines += ["# HELP hwautoml_start_time_seconds When the service was started, since the epoch."]
        lines += ["# TYPE hwautoml_start_time_seconds gauge", f"hwautoml_start_time_seconds {self._started:.3f}"]
        return "\n".join(lines) + "\n"


class _TimedReader(io.RawIOBase):
    """What arrives on a connection before ``deadline``: many short receives are no way around it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self.deadline = connection, 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request's time is over")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class Handler(BaseHTTPRequestHandler):
    """Set by ``make_server``: ``service``, ``max_request_bytes``, ``is_quiet``."""

    service: Service
    max_request_bytes: int
    is_quiet = False
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "hwautoml", ""
    disable_nagle_algorithm, wbufsize = True, -1  # head and body in one packet, at once
    server: "Server"
    _has_read = False  # the body of the request; reset with every request
    is_answering = False  # has a whole request; otherwise waits for one, or for the rest of one
    is_reading = False  # has the beginning of one
    since = 0.0  # when it began to do what it does

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._reader, self.since = _TimedReader(self.connection), time.monotonic()
        self.rfile = io.BufferedReader(self._reader, 65536)
        self.server.connections.add(self)
        if self.server.is_stopping:  # and may have missed this one
            self.let_go()
        self.server.make_room()

    def let_go(self) -> None:
        """It reads no further."""
        with contextlib.suppress(OSError):  # it has ended by itself
            self.connection.shutdown(socket.SHUT_RD)

    def finish(self) -> None:
        self.server.connections.discard(self)
        super().finish()

    def handle_one_request(self) -> None:
        self.is_answering = self.is_reading = self._has_read = False
        self._give_time(IDLE_SEC)
        self.close_connection = True
        with contextlib.suppress(TimeoutError):
            if not self.rfile.peek(1):  # type: ignore[attr-defined]  # buffered, whatever its type says; nothing: it ended
                return
            self.is_reading = True
            self._give_time(REQUEST_SEC)
            super().handle_one_request()
        self.close_connection = self.close_connection or self.server.is_stopping

    def _give_time(self, seconds: float) -> None:
        self.since = time.monotonic()
        self._reader.deadline = self.since + seconds

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        problem = self._ambiguous_head()
        if problem is not None:
            self._refuse("other", 400, problem)
            return False
        # Its body is not read, and would be taken for the next request.
        has_body = self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers
        self.close_connection = self.close_connection or (self.command == "GET" and has_body)
        return True

    def _ambiguous_head(self) -> str | None:
        """Why a proxy in front may see another request than this, which is how one is smuggled past it."""
        lengths = self.headers.get_all("Content-Length", [])
        if len(lengths) > 1:
            return f"a request has one Content-Length, this one has {len(lengths)}"
        if lengths and NUMBER.fullmatch(lengths[0]) is None:
            return f"Content-Length must be a number of at most 15 digits, got {lengths[0][:20]!r}"
        if any(isinstance(defect, NO_HEADERS) for defect in self.headers.defects):
            return "the request's head has a line that is no header"
        return None

    def handle_expect_100(self) -> bool:
        is_expected = super().handle_expect_100()
        self.wfile.flush()  # the client waits for it
        return is_expected

    def _url(self) -> SplitResult | None:
        """None where it is refused."""
        try:
            return urlsplit(self.path)
        except ValueError as error:
            self._refuse("other", 400, f"the request's address is malformed: {error}")
            return None

    def do_GET(self) -> None:
        self.is_answering = True
        url = self._url()
        if url is None:
            return
        if url.path == "/health":
            self._answer(url.path, 200, self.service.health())
        elif url.path == "/metrics":
            self._send(url.path, 200, self.service.metrics().encode(), "text/plain; version=0.0.4; charset=utf-8")
        elif url.path == "/predict":
            self._refuse(url.path, 405, "POST an image file to /predict", Allow="POST")
        else:
            self._refuse("other", 404, "there are /predict, /health and /metrics")

    def do_POST(self) -> None:
        url, length = self._url(), self.headers.get("Content-Length")
        if url is None:
            return
        num_classes = len(self.service.manifest["classes"])
        top = parse_qs(url.query).get("top", [str(min(3, num_classes))])[-1]
        if url.path != "/predict":
            self._refuse("other", 404, "images are taken at /predict")
        elif length is None or "Transfer-Encoding" in self.headers:
            self._refuse("/predict", 411, "send the image with a Content-Length")
        elif int(length) > self.max_request_bytes:
            self._refuse("/predict", 413, f"at most {self.max_request_bytes} bytes are taken, got {length}")
        elif NUMBER.fullmatch(top) is None or not 1 <= int(top) <= num_classes:
            self._refuse("/predict", 400, f"top must be 1 to {num_classes}, got {top[:20]!r}")
        else:
            self._predict(int(length), int(top))

    def _predict(self, length: int, top: int) -> None:
        """A slot is taken once the whole body is here: clients that are slow to send it keep nobody waiting."""
        try:
            data, self._has_read = self.rfile.read(length), True
        except TimeoutError:
            self._has_read = True
            self._refuse("/predict", 408, f"the request took longer than {REQUEST_SEC:g} s")
            return
        if len(data) < length:
            self._refuse("/predict", 400, f"the body ended after {len(data)} of {length} bytes")
            return
        self.is_answering = True
        if not self.service.slots.acquire(blocking=False):
            self._refuse("/predict", 503, f"{MAX_WAITING} requests are waiting already", **{"Retry-After": "1"})
            return
        try:
            result = self.service.predict(data, top)
        except run.BundleError as error:
            self._refuse("/predict", 400 if error.exit_code == run.EXIT_BAD_IMAGE else 500, str(error))
            return
        finally:
            self.service.slots.release()
        self._answer("/predict", 200, result)

    def _refuse(self, path: str, status: int, message: str, **headers: str) -> None:
        """The connection ends. What the client is still sending is read, or it would not see the answer."""
        self.close_connection = True
        length = self.headers.get("Content-Length", "")
        left = min(int(length), MAX_DISCARDED_BYTES) if NUMBER.fullmatch(length) and not self._has_read else 0
        with contextlib.suppress(TimeoutError):
            while left > 0:
                left -= len(self.rfile.read(min(left, 65536))) or left
        self._answer(path, status, {"error": message}, **headers)

    def _answer(self, path: str, status: int, content: dict[str, Any], **headers: str) -> None:
        self._send(path, status, json.dumps(content).encode() + b"\n", "application/json", **headers)

    def _send(self, path: str, status: int, body: bytes, kind: str, **headers: str) -> None:
        self.service.count(path, status)
        self.close_connection = self.close_connection or self.server.is_stopping
        if self.close_connection:
            headers["Connection"] = "close"
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.connection.settimeout(ANSWER_SEC)
        self.wfile.flush()

    def log_message(self, format: str, *values: Any) -> None:
        if not self.is_quiet:
            super().log_message(format, *values)


class Server(ThreadingHTTPServer):
    daemon_threads = False  # requests in progress are answered before the process ends
    block_on_close = True
    request_queue_size = 128
    is_stopping = False

    def __init__(self, address: tuple[str, int], handler: type[Handler]) -> None:
        self.connections: set[Handler] = set()
        super().__init__(address, handler)

    def make_room(self) -> None:
        """Memory and threads are bounded: of too many connections, the slowest to send a request ends."""
        unanswered = [c for c in list(self.connections) if not c.is_answering]
        if len(self.connections) > MAX_CONNECTIONS and unanswered:
            min(unanswered, key=lambda c: c.since).let_go()

    def stop(self) -> None:
        """Takes no more connections, and ends those that wait for a request; the others end with their answer."""
        self.is_stopping = True
        self.shutdown()
        self._let_go(lambda connection: not connection.is_reading)
        deadline = time.monotonic() + STOPPING_SEC
        while self.connections and time.monotonic() < deadline:
            time.sleep(0.02)
        self._let_go(lambda connection: not connection.is_answering)

    def _let_go(self, is_meant: Callable[[Handler], bool]) -> None:
        for connection in list(self.connections):
            if is_meant(connection):
                connection.let_go()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves before its answer is no error of ours."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def make_server(service: Service, host: str, port: int, max_request_bytes: int, *, is_quiet: bool = False) -> Server:
    handler = type(
        "BundleHandler",
        (Handler,),
        {"service": service, "max_request_bytes": max_request_bytes, "is_quiet": is_quiet},
    )
    return Server((host, port), handler)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    folder = Path(__file__).resolve().parent
    try:
        manifest = run.read_manifest(folder)
        for name in ("run.py", "serve.py"):
            run.verified_file(folder, manifest, name)
        run.answer_kind(manifest)
        runtime = options.runtime or manifest["default_runtime"]
        classify = run.open_model(folder, manifest, runtime, options.threads or manifest["num_threads"])
        _warm_up(manifest, classify)
    except run.BundleError as error:
        print(f"serve.py: {error}", file=sys.stderr)
        return error.exit_code
    service = Service(manifest, runtime, classify, options.max_megapixels * 1_000_000)
    try:
        server = make_server(service, options.host, options.port, options.max_request_mb << 20, is_quiet=options.quiet)
    except OSError as error:
        print(f"serve.py: cannot listen on {options.host}:{options.port}: {error.strerror}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.stop).start())
    print(f"serving on http://{options.host}:{server.server_port} with {runtime}", file=sys.stderr, flush=True)
    with server:
        server.serve_forever()
    return 0


def _warm_up(manifest: dict[str, Any], classify: Classify) -> None:
    """The first run of a model is slower, and one that cannot run at all should not be served."""
    numpy, shape = run.need("numpy"), manifest["input"]
    classify(numpy.zeros((1, shape["resolution"], shape["resolution"], shape["channels"]), numpy.uint8))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Serve the model in this folder over HTTP.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8080, help="0 takes a free one, and says which (default 8080)")
    parser.add_argument("--runtime", choices=run.runtime_names(), help="default: the faster one when measured")
    parser.add_argument("--threads", type=int, metavar="N", help="default: as when the latency was measured")
    parser.add_argument("--max-request-mb", type=int, default=10, metavar="MB", help="largest file (default 10)")
    parser.add_argument("--max-megapixels", type=int, default=50, metavar="MP", help="largest image (default 50)")
    parser.add_argument("--quiet", action="store_true", help="no line per request on standard error")
    options = parser.parse_args(arguments)
    limits = (options.max_request_mb, options.max_megapixels, 1 if options.threads is None else options.threads)
    if not 0 <= options.port <= 65535 or min(limits) < 1:
        parser.error("--port must be 0 to 65535, --max-request-mb, --max-megapixels and --threads at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
