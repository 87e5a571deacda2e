"""What the stages of one run share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwautoml.compilers import board_runtimes, shipping_runtimes
from hwautoml.core.board import HERE, Board
from hwautoml.core.progress import OnProgress, Progress
from hwautoml.core.target import Target
from hwautoml.devices.local import LocalDevice
from hwautoml.pipeline.connecting import device_for, require_real
from hwautoml.pipeline.runs.settings import RunSettings
from hwautoml.store.run_store import RunStore

if TYPE_CHECKING:
    from hwautoml.core.latency_table import LatencyTable
    from hwautoml.core.plan import Plan
    from hwautoml.datasets import ImageDataset
    from hwautoml.devices.base import Device
    from hwautoml.spaces.mobile import MobileSpace
    from hwautoml.supernets.training_cost import TrainingCost


@dataclass
class Job:
    """Filled from top to bottom as the stages pass."""

    store: RunStore
    settings: RunSettings
    target: Target
    on_progress: OnProgress
    profiles_dir: Path | None = None
    board: Board = HERE
    dataset: ImageDataset = field(init=False)
    space: MobileSpace = field(init=False)
    tables: dict[str, LatencyTable] = field(default_factory=dict)
    plan: Plan = field(init=False)
    training_cost: TrainingCost = field(init=False)
    affordable_sec_per_image: float = float("inf")  # of training the winner alone, once there is a plan
    profile_cap_sec: float = field(init=False)
    started: float = field(default_factory=time.monotonic)
    devices: dict[str, Device] = field(default_factory=dict)

    @property
    def runtimes(self) -> tuple[str, ...]:
        """What the target's networks are compiled for and measured on: the one asked for, or every usable one.

        Of those that ship.
        """
        from hwautoml.pipeline.tables.finding import usable_runtimes

        if self.is_remote:
            return board_runtimes()[:1]
        wanted = self.settings.runtime
        usable = (name for name in usable_runtimes(self.target) if name in shipping_runtimes())
        return tuple(usable) if wanted == "auto" else (wanted,)

    @property
    def table(self) -> LatencyTable:
        """Of the first runtime; ``tables`` may have more."""
        return next(iter(self.tables.values()))

    @property
    def folder(self) -> Path:
        return self.store.folder

    @property
    def elapsed_sec(self) -> float:
        """Wall-clock time of the run so far, earlier sessions included."""
        return float(self.store.setting("elapsed_sec", 0.0)) + time.monotonic() - self.started

    def save_elapsed(self) -> None:
        self.store.set_setting("elapsed_sec", self.elapsed_sec)
        self.started = time.monotonic()

    def report(self, stage: str, share: float, text: str = "") -> None:
        self.on_progress(Progress(stage, share, text))

    @property
    def is_remote(self) -> bool:
        """Whether networks are measured on a board over the network."""
        return self.board.is_remote

    def device(self, runtime: str) -> Device:
        """The target through ``runtime``; stays open for the later stages, because TVM takes seconds to start.

        A board is let go of after each stage, for others to use. What boards don't run, this machine does.
        """
        if runtime not in self.devices:
            if self.is_remote and runtime == board_runtimes()[0]:
                self.devices[runtime] = device_for(self.target, runtime, self.board, all_boards=True)
                require_real(self.devices[runtime].conditions())
            else:
                num_threads = 1 if self.is_remote else self.target.num_threads  # a board may have more cores
                self.devices[runtime] = LocalDevice(runtime, num_threads=num_threads)
        return self.devices[runtime]

    def close_devices(self) -> None:
        for device in self.devices.values():
            device.close()
        self.devices.clear()

    @contextmanager
    def timed_stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Runs a stage; what is put into the yielded mapping is stored when it succeeds.

        Seconds of an interrupted try count too.
        """
        payload: dict[str, Any] = {}
        began = time.monotonic()
        before = float(self.store.setting(f"seconds.{name}", 0.0))
        self.report(name, 0.0)
        try:
            yield payload
        finally:
            seconds = before + time.monotonic() - began
            self.store.set_setting(f"seconds.{name}", seconds)
            self.save_elapsed()
            if self.is_remote:
                self.close_devices()
        self.store.finish_stage(name, seconds, payload)
        self.report(name, 1.0)
