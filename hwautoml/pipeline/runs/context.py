"""What a run works with from its first stage to its last: nothing in it changes while the stages pass.

What the stages find out they return; what must survive an interruption is in the journal.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hwautoml.compilers import board_runtimes, shipping_runtimes
from hwautoml.core.board import Board
from hwautoml.core.closing import Closing
from hwautoml.core.progress import OnProgress, Progress
from hwautoml.core.target import Target
from hwautoml.devices.local import LocalDevice
from hwautoml.devices.machine import machine_conditions
from hwautoml.pipeline.connecting import device_for, require_real
from hwautoml.pipeline.runs.journal import SAVE_EVERY_SEC, Journal
from hwautoml.pipeline.runs.outcomes import Outcome
from hwautoml.pipeline.runs.settings import RunSettings
from hwautoml.pipeline.tables.finding import usable_runtimes
from hwautoml.store.table_library import TableLibrary

if TYPE_CHECKING:
    from hwautoml.core.elastic_space import ElasticSpace
    from hwautoml.datasets import ImageDataset
    from hwautoml.devices.base import Device

_log = logging.getLogger(__name__)

O = TypeVar("O", bound=Outcome)  # noqa: E741


class Devices(Closing):
    """Where a run's networks are measured, by runtime; each is opened when it is first asked for.

    They stay open for the later stages, because TVM takes seconds to start. What boards don't run, this machine does.
    """

    def __init__(self, target: Target, board: Board) -> None:
        self.target, self.board = target, board
        self._open: dict[str, Device] = {}

    def __call__(self, runtime: str) -> Device:
        if runtime not in self._open:
            board = self.board
            if board.is_remote and runtime == board_runtimes()[0]:
                self._open[runtime] = device_for(self.target, runtime, board, all_boards=True)
                require_real(self._open[runtime].conditions())
            else:
                num_threads = 1 if board.is_remote else self.target.num_threads  # a board may have more cores
                self._open[runtime] = LocalDevice(runtime, num_threads=num_threads)
        return self._open[runtime]

    def conditions(self) -> Mapping[str, object]:
        """Of what measures: this machine, or the board, which is let go of at once unless it was in use."""
        if not self.board.is_remote:
            return machine_conditions()
        runtime = board_runtimes()[0]
        was_open = runtime in self._open
        found = self(runtime).conditions()
        if not was_open:
            self._open.pop(runtime).close()
        return found

    def close(self) -> None:
        for device in self._open.values():
            device.close()
        self._open.clear()


@dataclass(frozen=True)
class RunContext:
    journal: Journal
    settings: RunSettings
    target: Target
    dataset: ImageDataset
    space: ElasticSpace
    devices: Devices
    on_progress: OnProgress
    profiles_dir: Path | None = None

    @property
    def folder(self) -> Path:
        return self.journal.folder

    @property
    def board(self) -> Board:
        return self.devices.board

    @property
    def library(self) -> TableLibrary:
        """Where its target's latency tables and tuning records lie."""
        return TableLibrary(self.profiles_dir)

    @property
    def records_path(self) -> Path:
        """Its target's tuning records, which ``profile_stage`` completes by those that ship."""
        return self.library.records_path(self.target.name)

    @property
    def limit_ms(self) -> float:
        return self.settings.latency_ms

    @property
    def runtimes(self) -> tuple[str, ...]:
        """What the target's networks are compiled for and measured on: the one asked for, or every usable one.

        Of those that ship.
        """
        if self.board.is_remote:
            return board_runtimes()[:1]
        wanted = self.settings.runtime
        usable = (name for name in usable_runtimes(self.target) if name in shipping_runtimes())
        return tuple(usable) if wanted == "auto" else (wanted,)

    def report(self, stage: str, share: float, text: str = "") -> None:
        self.journal.save_elapsed(at_least_sec=SAVE_EVERY_SEC)
        self.on_progress(Progress(stage, share, text))

    def once(self, kind: type[O], work: Callable[[], O], files: Callable[[O], Iterable[Path]] = lambda _: ()) -> O:
        """A stage: what it left in the journal, else ``work`` is done and kept there.

        ``files`` are those that it wrote: where one is damaged or missing when the run is resumed, the stage and all
        that follow it are done again. Seconds of an interrupted try count too. A board is let go of after each stage,
        for others to use.
        """
        done = self.journal.outcome(kind)
        if done is not None and self._is_whole(kind):
            return done
        began = time.monotonic()
        self.report(kind.stage, 0.0)
        try:
            outcome = work()
        finally:
            seconds = self.journal.add_stage_sec(kind.stage, time.monotonic() - began)
            self.journal.save_elapsed()
            if self.board.is_remote:
                self.devices.close()
        self.journal.keep_files(kind.stage, files(outcome))
        self.journal.finish(outcome, seconds)
        self.report(kind.stage, 1.0)
        return outcome

    def _is_whole(self, kind: type[Outcome]) -> bool:
        damaged = self.journal.damaged_files(kind.stage)
        if damaged:
            names = ", ".join(str(path) for path in damaged)
            _log.warning("%s: damaged or missing since stage %r wrote it; it is done again", names, kind.stage)
            set_aside(damaged)
            self.journal.forget_from(kind)
        return not damaged


def set_aside(paths: Iterable[Path]) -> None:
    """Damaged files, for whoever wants to look at them; they are never read again."""
    for path in paths:
        if path.is_file():
            path.replace(path.with_name(f"{path.name}.damaged"))
