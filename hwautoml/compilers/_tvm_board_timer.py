"""Times a tuner's candidates on a board: built here, uploaded and run over there, by TVM's RPC."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tvm

from hwautoml.compilers._tvm_link import linker
from hwautoml.compilers.base import BoardRoute
from hwautoml.core.temporary import temporary_folder
from hwautoml.errors import CompileError, InvalidValueError, TargetUnavailableError
from hwautoml.schedules.arena import PIPELINE
from hwautoml.schedules.timing import random_arguments

_AGENT = "hwautoml.agent."  # what our agent offers (hwautoml.devices.agent); another server lacks it
#: A candidate that takes longer than this hangs: the agent ends its session.
_CANDIDATE_SEC = 20.0
_PATIENCE_SEC, _RECONNECT_SEC, _SESSION_SEC = 60.0, 1.0, 24 * 3600


class BoardTimer:
    """One session with a board (`hwautoml.schedules.timing.Timer`).

    When the session ends in a candidate, so does this process, as it would if the candidate crashed here: TVM's
    destructors would call the board once more. Whoever supervises it skips the candidate and starts it again.

    Raises:
        TargetUnavailableError: the board cannot be reached, or stays busy, for a minute.
        InvalidValueError: it has fewer cores than ``num_threads``.
    """

    def __init__(self, route: BoardRoute, target: tvm.target.Target, num_threads: int, seed: int) -> None:
        self._target, self._link = target, linker(target)
        self._generator = np.random.default_rng(seed)
        self._session = _connected(route)
        self._device = self._session.cpu(0)
        self._limit = self._function("limit_time")
        self._num_loaded = self._num_uploaded = 0
        pin = self._function("pin")
        if pin is not None and str(pin(num_threads)) == "[]":
            raise InvalidValueError(f"the board at {route} has fewer cores than {num_threads} threads need")

    def open(self, function: tvm.tirx.PrimFunc) -> Callable[[int], float]:
        """See `Timer`. ValueError for a candidate that the board refuses; CompileError where it refuses the first."""
        library, device = self._upload(function), self._device
        given = random_arguments(function, self._generator)
        with self._on_the_board():
            arguments = [tvm.runtime.tensor(argument.numpy(), device) for argument in given]
        self._num_loaded += 1

        def seconds_per_run(number: int) -> float:
            with self._on_the_board():
                return float(library.time_evaluator("main", device, number=number, repeat=1)(*arguments).results[0])

        return seconds_per_run

    def _upload(self, function: tvm.tirx.PrimFunc) -> Any:
        """The function as a library that the board has loaded."""
        module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
        library = tvm.compile(module, target=self._target, tir_pipeline=PIPELINE)
        name = f"candidate{self._num_uploaded}.so"
        self._num_uploaded += 1
        with temporary_folder() as folder:
            path = folder / name
            library.export_library(str(path), fcompile=self._link)
            content = bytearray(path.read_bytes())
        with self._on_the_board():
            self._session.upload(content, name)
            loaded = self._session.load_module(name)
            self._session.remove(name)
            return loaded

    @contextmanager
    def _on_the_board(self) -> Iterator[None]:
        try:
            if self._limit is not None:
                self._limit(_CANDIDATE_SEC)
            yield
            if self._limit is not None:
                self._limit(0.0)
        except tvm.error.RPCError as error:
            if not self._num_loaded:
                raise CompileError(
                    f"the board cannot run what was compiled for {self._target}: {str(error).strip()[-300:]}",
                    fix="name the target that the board is, or give its [tvm] table",
                ) from error
            raise ValueError(str(error)) from error
        except tvm.error.InternalError as error:
            os.write(2, f"the session with the board ended: {error}\n".encode())
            os.abort()

    def _function(self, name: str) -> Any:
        try:
            return self._session.get_function(_AGENT + name)
        except AttributeError:
            return None


def _connected(route: BoardRoute) -> Any:
    """A session as soon as the board is there and free: it starts anew after a candidate that crashed it."""
    from tvm import rpc

    deadline = time.monotonic() + _PATIENCE_SEC
    while True:
        try:
            if route.is_tracker:
                tracker = rpc.connect_tracker(route.host, route.port)
                return tracker.request(route.key, session_timeout=_SESSION_SEC)
            return rpc.connect(route.host, route.port, route.key, session_timeout=_SESSION_SEC)
        except (RuntimeError, OSError) as error:  # TVM's InternalError is a RuntimeError
            if time.monotonic() >= deadline:
                raise TargetUnavailableError(
                    f"the board at {route} went away, or is busy: {str(error).strip()[-200:]}",
                    fix="start its agent, and the same command again: what was tried is recorded",
                ) from error
        time.sleep(_RECONNECT_SEC)
