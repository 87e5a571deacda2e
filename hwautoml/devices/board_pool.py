"""Several boards of one kind behind a tracker as one device: each measures its share, all at the same time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from hwautoml.core.closing import Closing
from hwautoml.core.measurement import Measurement
from hwautoml.devices.base import Progress
from hwautoml.devices.protocol import MeasureFailure, MeasureProtocol
from hwautoml.devices.rpc import RpcDevice
from hwautoml.devices.tracker import list_devices
from hwautoml.errors import TargetUnavailableError

logger = logging.getLogger(__name__)

MAX_BOARDS = 16
Result = Measurement | MeasureFailure


class BoardPool(Closing):
    """The boards of ``key`` that are free when they are first needed; at least one, which may have to be waited for.

    They are taken for equal, but no two run at the same speed: with a reference network in ``measure``, every
    board's times are brought to the speed of the middle one (``conditions["board_speed"]`` is the board's own).
    """

    def __init__(
        self,
        tracker: str,
        *,
        key: str,
        num_threads: int = 1,
        connect_timeout_sec: float = 60.0,
        runtime: str | None = None,
    ) -> None:
        """Raises InvalidValueError for a malformed address."""
        self._tracker, self._key, self._connect_timeout_sec = tracker, key, connect_timeout_sec
        self.num_threads = num_threads
        self._runtime = runtime
        self._boards = [self._board()]

    def close(self) -> None:
        """Lets go of all boards."""
        for board in self._boards:
            board.close()
        self._boards = [self._board()]

    @property
    def runtime(self) -> str:
        return self._boards[0].runtime

    @property
    def num_boards(self) -> int:
        """In use at the moment."""
        return len(self._boards)

    @property
    def runtime_version(self) -> str:
        return self._boards[0].runtime_version

    def conditions(self) -> dict[str, object]:
        """Of the first board; as of ``RpcDevice``."""
        return self._boards[0].conditions()

    def run_model(self, path: Path, inputs: np.ndarray, *, timeout_sec: float = 600.0) -> np.ndarray:
        """On the first board; as of ``RpcDevice``."""
        return self._boards[0].run_model(path, inputs, timeout_sec=timeout_sec)

    def measure(
        self,
        paths: Sequence[Path],
        reference: Path | None = None,
        protocol: MeasureProtocol | None = None,
        on_progress: Progress | None = None,
    ) -> list[Result]:
        """As of ``RpcDevice``. What a board that went away had not measured, the others do.

        Raises:
            TargetUnavailableError: no board can be reached, or all went away before the first sample.
            MeasurementError: the reference itself cannot be measured.
        """
        self._connect(len(paths))
        results: dict[int, Result] = {}
        left, listen = list(range(len(paths))), _Listener(on_progress, len(paths))
        while left:
            shares = [left[number :: self.num_boards] for number in range(min(self.num_boards, len(left)))]
            with ThreadPoolExecutor(len(shares)) as threads:
                calls: list[Future[list[Result] | TargetUnavailableError]] = []
                for board, share in zip(self._boards, shares, strict=False):
                    own, progress = [paths[i] for i in share], listen.of(len(calls))
                    calls.append(threads.submit(self._share, board, own, reference, protocol, progress))
                told = [call.result() for call in calls]
            gone = [board for board, answer in zip(self._boards, told, strict=False) if _is_gone(answer)]
            for share, answer in zip(shares, _at_one_speed(told), strict=True):
                results |= dict(zip(share, answer, strict=False))
            left = [i for i in left if i not in results or (gone and _was_interrupted(results[i], told))]
            if left and not self._without(gone):
                if not any(isinstance(result, Measurement) for result in results.values()):
                    raise next(answer for answer in told if isinstance(answer, TargetUnavailableError))
                break
        missing = "the board went away, and there was no other"
        return [results.get(i, MeasureFailure(path, missing)) for i, path in enumerate(paths)]

    def _connect(self, num_wanted: int) -> None:
        """Further boards, one per path at most; connected from this thread, because their workers end with it."""
        self._boards[0].conditions()
        free = next((boards.num_free for boards in list_devices(self._tracker) if boards.key == self._key), 0)
        for _ in range(min(free, num_wanted - self.num_boards, MAX_BOARDS - self.num_boards)):
            board = self._board()
            try:
                board.conditions()
            except TargetUnavailableError as error:  # another client was faster
                logger.info("%s", error.message)
                return
            self._boards.append(board)

    def _without(self, gone: Sequence[RpcDevice]) -> bool:
        """Drops boards; whether there is another one left."""
        for board in gone:
            logger.warning("a board of %s went away", self._key)
            board.close()
        kept = [board for board in self._boards if board not in gone]
        self._boards = kept or [self._board()]
        return bool(kept) and bool(gone)

    def _board(self) -> RpcDevice:
        return RpcDevice(
            self._tracker,
            key=self._key,
            is_tracker=True,
            num_threads=self.num_threads,
            connect_timeout_sec=self._connect_timeout_sec,
            runtime=self._runtime,
        )

    @staticmethod
    def _share(
        board: RpcDevice,
        paths: list[Path],
        reference: Path | None,
        protocol: MeasureProtocol | None,
        on_progress: Progress,
    ) -> list[Result] | TargetUnavailableError:
        try:
            return board.measure(paths, reference, protocol, on_progress)
        except TargetUnavailableError as error:
            return error


class _Listener:
    """Adds up what the boards report, each from its own thread."""

    def __init__(self, on_progress: Progress | None, num_paths: int) -> None:
        self._on_progress, self._num_paths = on_progress, num_paths
        self._done: dict[int, int] = {}
        self._lock = threading.Lock()

    def of(self, number: int) -> Progress:
        def listen(done: int, total: int, text: str) -> None:
            with self._lock:
                self._done[number] = done
                if self._on_progress is not None:
                    self._on_progress(min(sum(self._done.values()), self._num_paths), self._num_paths, text)

        return listen


def _is_gone(answer: list[Result] | TargetUnavailableError) -> bool:
    return isinstance(answer, TargetUnavailableError) or any(
        isinstance(result, Measurement) and "interrupted" in result.conditions for result in answer
    )


def _was_interrupted(result: Result, told: Sequence[list[Result] | TargetUnavailableError]) -> bool:
    """A network that failed only because its board went away; what has samples is kept."""
    reasons = {
        str(r.conditions["interrupted"])
        for answer in told
        if not isinstance(answer, TargetUnavailableError)
        for r in answer
        if isinstance(r, Measurement) and "interrupted" in r.conditions
    }
    return isinstance(result, MeasureFailure) and result.reason in reasons


def _at_one_speed(told: Sequence[list[Result] | TargetUnavailableError]) -> list[list[Result]]:
    """Every board's times at the speed of the middle board, by the reference that all of them timed."""
    shares: list[list[Result]] = [[] if isinstance(answer, TargetUnavailableError) else answer for answer in told]
    references = [_reference_ms(share) for share in shares]
    known = [value for value in references if value is not None]
    if len(known) < 2:
        return shares
    middle = float(np.median(known))
    return [
        share if own is None else [_scaled(result, middle, own) for result in share]
        for share, own in zip(shares, references, strict=True)
    ]


def _reference_ms(share: Sequence[Result]) -> float | None:
    values = (r.conditions.get("reference_median_ms") for r in share if isinstance(r, Measurement))
    return next((float(value) for value in values if isinstance(value, float)), None)


def _scaled(result: Result, middle_ms: float, own_ms: float) -> Result:
    if isinstance(result, MeasureFailure):
        return result
    factor = middle_ms / own_ms
    return replace(
        result,
        samples_ms=tuple(factor * sample for sample in result.samples_ms),
        single_ms=tuple(factor * sample for sample in result.single_ms),
        conditions={**result.conditions, "reference_median_ms": middle_ms, "board_speed": factor},
    )
