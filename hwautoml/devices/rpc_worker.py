"""The child process that speaks TVM's RPC with a board: the requests of ``worker``, served over there.

A call into a board that has gone or hangs cannot be interrupted, so all of them happen here, where the
parent can end them. When the connection is lost this process ends too; the parent starts another.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any

import numpy as np

from hwautoml.core.children import die_with_parent
from hwautoml.devices.board import Board, RemoteAgentModel, RemoteModel, remote_reason
from hwautoml.devices.running import batch_of, claim_stdout, random_input
from hwautoml.errors import HwAutoMLError, MeasurementError, MissingDependencyError, TargetUnavailableError

LOST_EXIT_CODE = 3
_RUN_BATCH = 64
_SETTLED = 0.97  # a warm-up batch that is no faster than this share of the best so far is settled
_NUM_SETTLED = 3
_RECONNECT_SEC = 1.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve requests until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parent", type=int, required=True, help="process id")
    options, _ = parser.parse_known_args(arguments)  # runtime, threads and cores are the board's matter
    die_with_parent(options.parent)
    answers = claim_stdout()

    def send(answer: Mapping[str, object]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        client = Client()
    except MissingDependencyError as error:
        send(_refusal(error))
        return
    send({"ok": True, "runtime_version": client.runtime_version})
    for line in sys.stdin:
        try:
            send({"ok": True, **client.answer(json.loads(line))})
        except HwAutoMLError as error:
            send(_refusal(error))
        except ConnectionLostError as error:
            os.write(2, f"the connection was lost: {error}\n".encode())
            os._exit(LOST_EXIT_CODE)  # TVM's destructors would call the board once more


class ConnectionLostError(Exception):
    """The board, its server or the network has gone."""


class Client:
    """Models by number on one board, and what can be asked of them."""

    def __init__(self) -> None:
        from hwautoml.compilers._tvm_import import import_tvm
        from hwautoml.compilers.tvm import unavailable_reason, version

        reason = unavailable_reason()
        if reason is not None:
            raise MissingDependencyError(f"a remote device needs TVM here, too: {reason}")
        import_tvm(1)
        self.runtime_version = version()
        self._board: Board | None = None
        self._models: dict[int, RemoteModel | RemoteAgentModel] = {}

    @property
    def board(self) -> Board:
        assert self._board is not None, "the first request is 'connect'"
        return self._board

    def answer(self, request: Mapping[str, Any]) -> dict[str, object]:
        """Raises ConnectionLostError when the board is not heard any more, HwAutoMLError for what it reports."""
        import tvm

        actions: dict[str, Callable[..., dict[str, object]]] = {
            "connect": self.connect,
            "conditions": self.conditions,
            "open": self.open,
            "close": self.close,
            "warm": self.warm,
            "time": self.time,
            "run": self.run,
            "singles": self.singles,
        }
        action = actions[request["do"]]
        fields = {name: value for name, value in request.items() if name not in ("do", "timeout_sec")}
        try:
            if action == self.connect:
                return action(**fields)
            with self.board.time_limit(request["timeout_sec"]):
                return action(**fields)
        except tvm.error.RPCError as error:
            raise MeasurementError(f"the board reported: {remote_reason(error)}") from error
        except tvm.error.InternalError as error:
            raise ConnectionLostError(remote_reason(error.__context__ or error)) from error

    def connect(
        self,
        host: str,
        port: int,
        key: str,
        is_tracker: bool,
        num_threads: int,
        session_timeout_sec: float,
        patience_sec: float,
        runtime: str,
    ) -> dict[str, object]:
        """Raises TargetUnavailableError when nothing listens for ``patience_sec``, or the key is wrong."""
        from tvm import rpc

        deadline = monotonic() + patience_sec
        while True:
            try:
                if is_tracker:
                    tracker = rpc.connect_tracker(host, port)
                    session = tracker.request(key, session_timeout=session_timeout_sec)
                else:
                    session = rpc.connect(host, port, key, session_timeout=session_timeout_sec)
                break
            except (RuntimeError, OSError) as error:  # TVM's InternalError is a RuntimeError
                reason = remote_reason(error)
                if "matches key" in reason:
                    raise TargetUnavailableError("its agent was started with another key") from error
                if monotonic() >= deadline:
                    raise TargetUnavailableError(reason) from error
            sleep(_RECONNECT_SEC)
        self._board = Board(session, num_threads, runtime)
        return {}

    def conditions(self, runtime: str) -> dict[str, object]:
        return {"conditions": self.board.conditions(runtime)}

    def open(self, model: int, path: str, seed: int) -> dict[str, object]:
        """Upload, load, and run once on random input.

        Loading time and peak memory include that run, and are the agent's figures; another server
        reports none, so the time is what it takes from here, network included.
        """
        name = self.board.upload(Path(path))
        told = self.board.try_loading(name)
        start = perf_counter()
        opened = self.board.load(name)
        opened.bind(random_input(opened.input_shape, opened.input_dtype, seed))()
        self._models[model] = opened
        load_ms, batch = 1e3 * (perf_counter() - start), batch_of(opened.input_shape)
        own = {"load_ms": load_ms, "peak_memory_bytes": None, "device": opened.device_name, "batch": batch}
        return own | told

    def close(self, keep: int) -> dict[str, object]:
        """Forget all models but ``keep``."""
        for number in [number for number in self._models if number != keep]:
            self._models.pop(number).close()
        gc.collect()
        return {}

    def warm(self, model: int, min_ms: float, max_ms: float) -> dict[str, object]:
        """Run until batches stop getting faster, at most ``max_ms`` by the board's clock; answers with ns per run."""
        opened, num_inner, settled, spent_ns = self._models[model], 1, 0, 0.0
        batches: list[float] = []
        while settled < _NUM_SETTLED and spent_ns < max_ms * 1e6:
            (per_run,) = opened.time_ns(num_inner)
            spent_ns += per_run * num_inner
            settled = settled + 1 if batches and per_run > _SETTLED * min(batches) else 0
            batches.append(per_run)
            num_inner = max(1, round(min_ms / 4 * 1e6 / min(batches)))
        return {"ns": statistics.median(batches[-_NUM_SETTLED:])}

    def time(self, model: int, num_inner: int, num_parts: int) -> dict[str, object]:
        """Nanoseconds per run of ``num_parts`` parts of ``num_inner`` runs each, after a run that warms the caches.

        ``preempted``: the board's scheduler took the core away during one of them.
        """
        before = self.board.num_preemptions()
        parts = self._models[model].time_ns(num_inner, repeat=num_parts)
        return {"ns": parts, "preempted": self.board.num_preemptions() != before}

    def singles(self, model: int, number: int) -> dict[str, object]:
        """Nanoseconds of ``number`` runs timed one by one, for the tail: nothing is retaken or left out."""
        return {"ns": self._models[model].time_ns(1, repeat=number)}

    def run(self, path: str, inputs: str, outputs: str) -> dict[str, object]:
        """Outputs (n, ...) for inputs (n, ...), in the model's own batches; both are .npy files."""
        opened = self.board.load(self.board.upload(Path(path)))
        images = np.load(inputs, allow_pickle=False)
        batch = opened.input_shape[0] if opened.input_shape[0] > 0 else min(_RUN_BATCH, len(images))
        results = []
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            padding = [(0, batch - len(part))] + [(0, 0)] * (images.ndim - 1)
            results.append(opened(np.pad(part, padding))[: len(part)])
        opened.close()
        np.save(outputs, np.concatenate(results), allow_pickle=False)
        return {}


def _refusal(error: HwAutoMLError) -> dict[str, object]:
    return {"ok": False, "error": error.message, "type": type(error).__name__, "fix": error.fix}


if __name__ == "__main__":
    main()
