"""Verb: tune the functions that the networks of a space are made of, once per target."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hwautoml.compilers.base import Tuning
from hwautoml.core import json_form
from hwautoml.core.board import Board
from hwautoml.core.duration import require_duration
from hwautoml.core.progress import OnProgress, Progress, silent
from hwautoml.core.resources import target_folders
from hwautoml.core.space import Architecture, SearchSpace
from hwautoml.core.storage import require_writable
from hwautoml.core.target import Target, load_target
from hwautoml.core.temporary import temporary_folder
from hwautoml.errors import InvalidValueError
from hwautoml.pipeline.connecting import board_route, require_reachable
from hwautoml.pipeline.tables.finding import choose_runtime
from hwautoml.pipeline.tables.probes import deployable_probe, functions_probe
from hwautoml.pipeline.verbs.records import completed_records
from hwautoml.spaces import load_profiled_space

#: Few, because the quantiser's time grows with the square of their number.
LAYERS_PER_PROBE = 8
#: Whole networks that are looked at beside the layers, drawn from so many; fewer where they take long to write.
MAX_NETWORKS, NUM_DRAWN, NETWORKS_SHARE = 64, 1500, 0.1
LONGEST_SEQUENCE = 5
#: A candidate that runs (or compiles) longer than this hangs.
SILENCE_SEC = 120.0


@dataclass(frozen=True)
class TunedSpace:
    """Of ``num_functions`` that the space's networks are made of, ``num_recorded`` have a record now.

    ``num_candidates_left`` are those that the budget left untried. ``device``: what they were timed on.
    """

    records: Path
    target: str
    device: str
    space: str
    precision: str
    num_layers: int
    num_functions: int
    num_recorded: int
    num_trials: int
    num_candidates_left: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return json_form.to_json(self)


def tune(
    target: str = "cpu",
    *,
    space: str = "mobile",
    image_size: int | None = None,
    channels: int | None = None,
    batch: int = 1,
    precision: str = "fp32",
    budget_sec: float = 1800.0,
    records: Path | None = None,
    device: str | None = None,
    tracker: str | None = None,
    key: str | None = None,
    seed: int = 0,
    targets_dir: Path | None = None,
    profiles_dir: Path | None = None,
    on_progress: OnProgress = silent,
) -> TunedSpace:
    """Tune each function of a space's networks once for a target; then any of them compiles by look-up.

    Records are kept beside the target's latency tables (or in ``records``), after every trial: whatever ends this,
    the same command goes on. ``inspect_records`` says what is recorded.
    ``device``, or ``tracker`` and ``key``, name a board: candidates are compiled here and timed there.
    ``precision`` "int8" tunes the networks' quantised form, whose functions are other ones.

    Raises:
        InvalidValueError: the target is a GPU, whose schedules are TVM's, or an argument is out of range.
        TargetUnavailableError: code for the target cannot be timed from this machine, or its board does not answer.
        MeasurementError: the board is emulated.
        RunFolderError: the file of records is damaged.
        StorageError: the file of records cannot be written.
    """
    require_duration(budget_sec, "budget_sec")
    found = load_target(target, target_folders(targets_dir))
    path = completed_records(target, records, targets_dir, profiles_dir)
    if found.is_cuda:
        raise InvalidValueError(
            f"target {found.name} is a GPU, and what is tuned are our schedules for processors",
            fix="compile without tuning: TVM has schedules of its own for GPUs",
        )
    board = Board(device, tracker, key)
    require_reachable(found, board)
    choose_runtime(found, "tvm")
    if precision not in ("fp32", "int8"):
        raise InvalidValueError(f"precision must be fp32 or int8, got {precision!r}")
    require_writable(path)
    tuning = Tuning(path, budget_sec, seed, board_route(found, board))
    chosen = load_profiled_space(space, image_size=image_size, channels=channels)
    return _tune(found, chosen, batch, precision, tuning, on_progress)


def _tune(
    target: Target,
    space: SearchSpace,
    batch: int,
    precision: str,
    tuning: Tuning,
    on_progress: OnProgress,
) -> TunedSpace:
    from hwautoml.compilers.tvm import CompilerPool

    began, budget_sec, records = time.monotonic(), tuning.budget_sec, tuning.records
    assert records is not None, "a space is tuned for its records"

    def listen(done: int, total: int, text: str) -> None:
        share = max(done / max(total, 1) if text.startswith("tuning") else 0.0, (time.monotonic() - began) / budget_sec)
        on_progress(Progress("tune", min(share, 0.999), f"{text}: {done} of {total}"))

    with temporary_folder() as name:
        sources, layers = [], space.all_layers()
        with _one_torch_thread():
            for start in range(0, len(layers), LAYERS_PER_PROBE):
                some, source = layers[start : start + LAYERS_PER_PROBE], name / f"layers{start}.onnx"
                sources.append(functions_probe(space, some, source, batch=batch, precision=precision))
                listen(min(start + LAYERS_PER_PROBE, len(layers)), len(layers), "writing layers")
            networks, deadline = telling_networks(space, tuning.seed), time.monotonic() + NETWORKS_SHARE * budget_sec
            for index, network in enumerate(networks):
                if time.monotonic() > deadline:
                    break
                source = name / f"network{index}.onnx"
                sources.append(deployable_probe(space, network, source, batch=batch, precision=precision))
                listen(index + 1, len(networks), "writing networks")
        # However long writing took, every function gets some time.
        left_sec = max(budget_sec - (time.monotonic() - began), 0.2 * budget_sec)
        with CompilerPool(silence_sec=SILENCE_SEC) as pool:
            tuned = pool.tune(sources, target, replace(tuning, budget_sec=left_sec), on_progress=listen)
    on_progress(Progress("tune", 1.0))
    return TunedSpace(
        records,
        target.name,
        "this machine" if tuning.board is None else f"{tuning.board.cpu} at {tuning.board}",
        space.name,
        precision,
        num_layers=len(layers),
        num_functions=tuned.num_functions,
        num_recorded=tuned.num_recorded,
        num_trials=tuned.num_trials,
        num_candidates_left=tuned.num_left,
        seconds=time.monotonic() - began,
    )


def telling_networks(space: SearchSpace, seed: int) -> list[Architecture]:
    """A few members that show as many sequences of consecutive layers as possible, short ones first.

    What a layer ends with may be computed inside what the next one begins with, or the other way round (sums of a
    cell, normalisation): layers alone don't have all the functions of the networks made of them.
    """
    generator = np.random.default_rng(seed)
    drawn = {architecture.id: architecture for architecture in (space.sample(generator) for _ in range(NUM_DRAWN))}
    unseen = {name: _sequences([layer.key for layer in space.layers(drawn[name])]) for name in drawn}
    chosen: list[Architecture] = []
    while unseen and len(chosen) < MAX_NETWORKS:
        best = max(unseen, key=lambda name: [len(sequences) for sequences in unseen[name]])
        seen = unseen.pop(best)
        if not any(seen):
            break
        chosen.append(drawn[best])
        for sequences in unseen.values():
            for mine, others in zip(sequences, seen, strict=True):
                mine -= others
    return chosen


def _sequences(keys: Sequence[str]) -> list[set[tuple[str, ...]]]:
    """By length: every sequence of consecutive layers of that many."""
    lengths = range(1, LONGEST_SEQUENCE + 1)
    return [{tuple(keys[i : i + length]) for i in range(len(keys) - length + 1)} for length in lengths]


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Tracing layers is too little work for more, which would wait for each other on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
