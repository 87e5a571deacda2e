"""Verb ``bench``: files, bundles and runtimes side by side on a target; see docs/bench.md."""

from __future__ import annotations

import csv as csv_module
import io
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hwautoml.compilers import board_runtimes
from hwautoml.core.board import Board
from hwautoml.core.duration import require_duration
from hwautoml.core.measurement import Measurement
from hwautoml.core.progress import OnProgress, Progress, silent
from hwautoml.core.resources import target_folders
from hwautoml.core.storage import replaced_atomically, require_writable, write_atomically
from hwautoml.core.target import load_target
from hwautoml.core.temporary import temporary_folder
from hwautoml.devices.local import LocalDevice
from hwautoml.devices.protocol import MeasureFailure, MeasureProtocol
from hwautoml.devices.side_by_side import measure_side_by_side
from hwautoml.errors import HwAutoMLError, InvalidValueError, MeasurementError, StorageError
from hwautoml.pipeline.connecting import device_for, require_reachable
from hwautoml.pipeline.verbs.baseline import compare, parse_share, read_baseline
from hwautoml.pipeline.verbs.bench_result import BenchFailure, BenchResult, BenchRow
from hwautoml.pipeline.verbs.benchables import (
    Benchable,
    benchables,
    own_runtimes,
    parse_runtimes,
    prepare,
    require_of_target,
)

if TYPE_CHECKING:
    from hwautoml.core.target import Target

PROTOCOL = MeasureProtocol(
    warmup_ms=50.0,
    min_rounds=50,
    max_rounds=200,
    target_relative_interval=0.005,
    max_model_sec=6.0,
    num_singles=1000,
)
PREPARING_SHARE = 0.3  # of the progress bar
CSV_COLUMNS = (
    "artifact",
    "runtime",
    "threads",
    "batch",
    "median_ms",
    "interval_low_ms",
    "interval_high_ms",
    "p95_ms",
    "p99_ms",
    "throughput",
    "load_ms",
    "peak_memory_mb",
    "model_memory_mb",
    "size_mb",
    "num_samples",
    "origin",
)

_log = logging.getLogger(__name__)


def bench(
    artifacts: Sequence[str | Path],
    *,
    target: str = "cpu",
    runtime: str | None = None,
    threads: int | None = None,
    batch: int = 1,
    budget_sec: float = 60.0,
    against: Path | None = None,
    fail_above: str | float = "5%",
    csv: Path | None = None,
    picture: Path | None = None,
    device: str | None = None,
    tracker: str | None = None,
    key: str | None = None,
    seed: int = 0,
    targets_dir: Path | None = None,
    profiles_dir: Path | None = None,
    on_progress: OnProgress = silent,
) -> BenchResult:
    """Measure ONNX files, what ``compile`` wrote, torch programs, bundles and run folders on a target.

    Each on its own runtimes, or on every one in ``runtime`` (comma-separated) that takes it; compiled here
    where need be. Each runs in a process of its own, all in the same rounds, with a reference network in
    between. ``budget_sec`` bounds the rounds. ``against`` is a stored result to compare with; see
    ``baseline.require_no_regression``. ``device``, or ``tracker`` and ``key``, name a board, which runs TVM
    libraries, and ONNX files where its agent has ONNX Runtime, one after the other in one process. ``seed`` is
    for the inputs and for the order within each round.

    What cannot be measured is named in ``failed``, and the rest goes on; see ``require_all_measured``.

    Raises:
        HwAutoMLError: nothing at all could be measured: the first artifact's own error.
        StorageError: ``csv`` or ``picture`` cannot be written.
    """
    runtimes, limit = parse_runtimes(runtime), parse_share(fail_above)
    if batch < 1 or (threads is not None and threads < 1):
        raise InvalidValueError(f"--batch and --threads must be at least 1, got {batch} and {threads}")
    require_duration(budget_sec, "budget_sec")
    baseline = None if against is None else read_baseline(against)
    found = load_target(target, target_folders(targets_dir))
    found = found if threads is None else replace(found, num_threads=threads)
    board = Board(device, tracker, key)
    require_reachable(found, board)
    require_of_target(runtimes or (), found)
    if picture is not None and picture.suffix != ".png":
        raise InvalidValueError(f"--picture must be a .png file, got {picture}")
    for path in filter(None, (csv, picture)):
        require_writable(path)
    if board.is_remote:
        runtimes = runtimes or board_runtimes()[:1]
        for name in runtimes:
            device_for(found, name, board).close()  # before anything is compiled: not every runtime is on boards
    protocol = replace(PROTOCOL, seed=seed, max_total_sec=budget_sec)
    session = _Session(found, batch, board, profiles_dir, on_progress)
    with temporary_folder() as folder:
        items = session.prepared([Path(a) for a in artifacts], runtimes, folder)
        rows = session.measured(items, folder, protocol)
    if not rows:
        raise session.errors[0]
    on_progress(Progress("bench", 1.0))
    against_baseline = None if baseline is None else compare(rows, baseline, limit)
    ranked = tuple(sorted(rows, key=lambda row: row.median_ms / row.batch))
    result = BenchResult(found.name, ranked, tuple(session.skipped), tuple(session.failed), against_baseline)
    _write_files(result, csv, picture)
    return result


def require_all_measured(result: BenchResult) -> None:
    """Raises MeasurementError, naming them, when some artifacts could not be measured."""
    if result.failed:
        text = "; ".join(f"{failure.artifact}: {failure.error}" for failure in result.failed)
        raise MeasurementError(f"{len(result.failed)} could not be measured: {text}")


class _Session:
    """One call of the verb: what is measured, and what went wrong."""

    def __init__(
        self, target: Target, batch: int, board: Board, profiles_dir: Path | None, on_progress: OnProgress
    ) -> None:
        self.target, self.batch, self.board = target, batch, board
        self.profiles_dir, self.on_progress = profiles_dir, on_progress
        self.skipped: list[str] = []
        self.failed: list[BenchFailure] = []
        self.errors: list[HwAutoMLError] = []

    def prepared(
        self, artifacts: Sequence[Path], runtimes: tuple[str, ...] | None, folder: Path
    ) -> list[tuple[Benchable, Path]]:
        """Every item with the file that its runtime opens."""
        items = []
        for artifact in artifacts:
            try:
                found, skipped = benchables(artifact, runtimes, self.batch, self.target)
                self.skipped += skipped
                if not found:
                    raise InvalidValueError(f"{artifact} runs on none of the runtimes asked for: {'; '.join(skipped)}")
            except HwAutoMLError as error:
                self._fail(str(artifact), None, error)
                continue
            items += found
        ready = []
        for number, item in enumerate(items):
            share = PREPARING_SHARE * number / len(items)
            self.on_progress(Progress("bench", share, f"preparing {item.name} for {item.runtime}"))
            try:
                path = prepare(item, self.target, self.batch, folder / str(number), self.profiles_dir)
            except StorageError:
                raise
            except HwAutoMLError as error:
                self._fail(item.name, item.runtime, error)
                continue
            ready.append((item, path))
        return ready

    def measured(
        self, items: Sequence[tuple[Benchable, Path]], folder: Path, protocol: MeasureProtocol
    ) -> list[BenchRow]:
        from hwautoml.exporters.reference import REFERENCE_NAME, export_reference

        if not items:
            return []
        reference = export_reference(folder / "reference.onnx")
        if self.board.is_remote:
            results = self._on_board(items, reference, folder, protocol)
        else:
            results = self._side_by_side(items, reference, folder, protocol)
        rows = []
        for (item, path), result in zip(items, results, strict=True):
            if isinstance(result, MeasureFailure):
                self._fail(item.name, item.runtime, MeasurementError(f"{item.name} on {item.runtime}: {result.reason}"))
                continue
            if self.target.is_cuda and result.conditions.get("device") != "cuda":
                reason = f"it ran on the processor; compile it for --target {self.target.name}"
                self._fail(item.name, item.runtime, MeasurementError(f"{item.name} on {item.runtime}: {reason}"))
                continue
            size, threads = path.stat().st_size, self.target.num_threads
            rows.append(BenchRow.of(item.name, item.runtime, threads, size, result, REFERENCE_NAME))
        return rows

    def _on_board(
        self, items: Sequence[tuple[Benchable, Path]], reference: Path, folder: Path, protocol: MeasureProtocol
    ) -> list[Measurement | MeasureFailure]:
        """All in one session of the board, in the same rounds; TVM times the reference unless none of them needs it."""
        used = {item.runtime for item, _ in items}
        runtime = next(runtime for runtime in board_runtimes() if runtime in used)
        timer = prepare(Benchable("reference", runtime, reference), self.target, 1, folder, self.profiles_dir)
        with device_for(self.target, runtime, self.board) as device:
            return device.measure([path for _, path in items], timer, protocol, self._listen)

    def _side_by_side(
        self, items: Sequence[tuple[Benchable, Path]], reference: Path, folder: Path, protocol: MeasureProtocol
    ) -> list[Measurement | MeasureFailure]:
        runtime = own_runtimes(self.target)[".onnx"]  # on a GPU the reference runs there
        reference = prepare(Benchable("reference", runtime, reference), self.target, 1, folder, self.profiles_dir)
        with ExitStack() as stack:
            threads = self.target.num_threads
            devices = [stack.enter_context(LocalDevice(item.runtime, num_threads=threads)) for item, _ in items]
            timer = stack.enter_context(LocalDevice(runtime))
            entries = [(device, path) for device, (_, path) in zip(devices, items, strict=True)]
            return measure_side_by_side(entries, (timer, reference), protocol, self._listen)

    def _fail(self, artifact: str, runtime: str | None, error: HwAutoMLError) -> None:
        _log.info("%s: %s", artifact, error.message)
        self.errors.append(error)
        self.failed.append(BenchFailure(artifact, runtime, error.message))

    def _listen(self, done: int, total: int, text: str) -> None:
        share = PREPARING_SHARE + (1 - PREPARING_SHARE) * done / max(total, 1)
        self.on_progress(Progress("bench", min(share, 0.999), f"{done} of {total} done, {text}"))


def _write_files(result: BenchResult, csv: Path | None, picture: Path | None) -> None:
    rows = [row.to_json() for row in result.rows]
    if csv is not None:
        text = io.StringIO()
        writer = csv_module.DictWriter(text, CSV_COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            low, high = row["interval_ms"]
            writer.writerow({**row, "interval_low_ms": low, "interval_high_ms": high})
        write_atomically(csv, text.getvalue())
    if picture is not None:
        from hwautoml.reports.bench_image import save_bench

        with replaced_atomically(picture) as temporary:
            save_bench(rows, result.target, temporary)
