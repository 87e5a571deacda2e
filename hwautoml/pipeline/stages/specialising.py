"""Stage: from the front to finalists. Candidates that meet the limit by measurement (``screening``) race: each is
trained for the same *time*, not for the same number of images, so that one that trains slowly has to be worth it.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwautoml.core.space import Architecture
from hwautoml.core.task import Outcome
from hwautoml.pipeline.runs.job import Job
from hwautoml.pipeline.runs.utilisation import batch_size
from hwautoml.pipeline.stages.screening import entrants, needing_int8
from hwautoml.pipeline.stages.searching import Evaluator, scored_weights_path, trained_enough
from hwautoml.pipeline.stages.training import checkpoint, restore, training_batches, training_listener
from hwautoml.store.files import read_tensors, write_tensors
from hwautoml.store.run_store import Evaluation

if TYPE_CHECKING:
    from torch import nn

_log = logging.getLogger(__name__)

FINE_TUNED = "fine-tuned"
PHASES = ("first", "second", "third", "fourth")  # rounds of the race, the last is the leader's alone
RACE_SHARE = 0.16  # of the fine-tuning time goes to the race, the rest to the leader


def specialise_stage(job: Job) -> None:
    """Afterwards the journal has the finalists' fine-tuned weights and validation scores.

    Raises:
        LimitNotMetError: no candidate met the limit when it was measured.
    """
    if job.store.stage("specialise") is not None:
        return
    with job.timed_stage("specialise") as payload:
        entered = entrants(job)
        finalists = _race(job, _FineTuner(job), entered)
        payload["entrants"] = [a.id for a in entered]
        payload["finalists"] = [a.id for a in finalists]
        payload["leader"] = finalists[0].id


def _race(job: Job, trainer: _FineTuner, entered: list[Architecture]) -> list[Architecture]:
    """Successive halving by the clock (Jamieson & Talwalkar 2016); those of the last rounds, the leader first.

    Every round is a training of its own with the learning rate down to zero: only then do accuracies compare.
    """
    num_rounds = math.ceil(math.log2(len(entered)))
    round_sec = RACE_SHARE * _left_sec(job, PHASES[0]) / max(num_rounds, 1)
    survivors = ranked = entered
    for phase in PHASES[:num_rounds]:
        for architecture in survivors:
            trainer.train(architecture, phase, round_sec / len(survivors))
        rows = candidate_rows(job)
        dropped = ranked[len(survivors) :]
        ranked = [*sorted(survivors, key=lambda a: -rows[a.id]["accuracy_val"]), *dropped]
        survivors = ranked[: math.ceil(len(survivors) / 2)]
    ranked = _leader_first(job, ranked)
    trainer.train(ranked[0], PHASES[num_rounds], _left_sec(job, PHASES[num_rounds]))
    return _finalists(job, ranked)


def _leader_first(job: Job, ranked: list[Architecture]) -> list[Architecture]:
    """Who gets most of the time must be able to ship: one that meets the limit in int8 alone is quantised as it is
    now, and where it loses too much by that, the best that needs no int8 takes its place."""
    risky = needing_int8(job)
    able = next((a for a in ranked if a.id not in risky), None)
    if ranked[0].id not in risky or able is None:
        return ranked
    kept = job.store.setting("leader_keeps_accuracy")
    if kept is None:
        from hwautoml.pipeline.runs.int8_accuracy import keeps_accuracy

        kept = keeps_accuracy(job, ranked[0])
        job.store.set_setting("leader_keeps_accuracy", kept)
    return ranked if kept else [able, *(a for a in ranked if a != able)]


def _finalists(job: Job, ranked: list[Architecture]) -> list[Architecture]:
    """As many as planned; one of them needs no int8, if there is any."""
    number, risky = job.plan.num_finalists, needing_int8(job)
    first, able = ranked[:number], [a for a in ranked if a.id not in risky]
    return first if not able or able[0] in first else [*first[: max(number - 1, 1)], able[0]]


def _left_sec(job: Job, phase: str) -> float:
    """What is left of the budget when a phase begins, with the time to score and ship set aside.

    Written down, so that resuming keeps it.
    """
    stored = job.store.setting(f"left_sec.{phase}")
    if stored is None:
        stored = max(job.plan.total - job.elapsed_sec - job.plan.ship, 0.05 * job.plan.total)
        job.store.set_setting(f"left_sec.{phase}", stored)
    return float(stored)


class _FineTuner:
    """Trains subnets on their own, from their shared weights; every phase resumes from its checkpoint."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._evaluator: Evaluator | None = None

    def train(self, architecture: Architecture, phase: str, seconds: float) -> None:
        if self.job.store.stage(f"fine-tune.{phase}.{architecture.id}") is not None:
            return
        path = self.job.folder / "checkpoints" / f"{architecture.id}.{phase}.safetensors"
        network, num_images = self._train(architecture, path, seconds)
        outcome = self._outcome(network, architecture)
        evaluation = Evaluation(architecture, f"{FINE_TUNED}.{phase}", "val", outcome, seconds)
        before = candidate_rows(self.job).get(architecture.id)
        if before is None or self.job.dataset.task.score(outcome) >= before["accuracy_val"]:
            write_tensors(scored_weights_path(self.job.folder, architecture.id), dict(network.state_dict()))
            self.job.store.add_evaluation(evaluation)
        else:
            _log.warning("%s was better before its %s round; those weights are kept", architecture.id, phase)
        self.job.store.finish_stage(f"fine-tune.{phase}.{architecture.id}", seconds, {"images": num_images})
        path.unlink(missing_ok=True)

    def _train(self, architecture: Architecture, path: Path, seconds: float) -> tuple[nn.Module, int]:
        import torch

        from hwautoml.supernets.scoring import Normalised
        from hwautoml.supernets.training import (
            TrainSettings,
            default_device,
            fastest_setup,
            network_step,
            train,
            with_growing_images,
        )

        began, job, device = time.monotonic(), self.job, default_device()
        network = self._starting_point(architecture)
        state = restore(path, network)
        model = (
            Normalised(network, job.dataset.mean, job.dataset.std).to(device, memory_format=torch.channels_last).train()
        )
        size = batch_size(job.dataset.train.num_images)
        settings = TrainSettings(batch_size=size, seed=job.settings.seed + 1)
        # Half the supernet's rate for weights that are already good.
        peak = settings.peak_learning_rate * (1 - 0.5 * trained_enough(job))
        settings = replace(settings, peak_learning_rate=peak)
        batches = training_batches(job.dataset, size, device, job.space.resolution(architecture))
        images, labels = next(iter(batches(torch.Generator().manual_seed(0))))

        def make_step(dtype: torch.dtype | None):  # type: ignore[no-untyped-def]
            return network_step(model, task=job.dataset.task, dtype=dtype, device=device)

        setup = fastest_setup(network, make_step, images, labels)
        small_share = 0.5 * (1 - trained_enough(job))  # good weights were trained at full size already
        state = train(
            network,
            with_growing_images(make_step(setup.dtype), lambda: state.seconds / seconds, small_share),
            batches,
            budget_sec=seconds - (time.monotonic() - began),
            settings=settings,
            state=state,
            images_per_epoch=job.dataset.train.num_images,
            on_progress=training_listener(job, "specialise", seconds),
            on_checkpoint=lambda current: checkpoint(job, path, network, current),
        )
        return network.eval(), state.images

    def _starting_point(self, architecture: Architecture) -> nn.Module:
        """The weights of an earlier phase, or else the supernet's."""
        path = scored_weights_path(self.job.folder, architecture.id)
        if path.is_file():
            return load_network(self.job, architecture)
        if self._evaluator is None:
            self._evaluator = Evaluator(self.job)
        return self._evaluator.recalibrated(architecture)

    def _outcome(self, network: nn.Module, architecture: Architecture) -> Outcome:
        from hwautoml.supernets.scoring import Normalised, score
        from hwautoml.supernets.training import default_device

        dataset, device = self.job.dataset, default_device()
        scored = Normalised(network, dataset.mean, dataset.std).to(device)
        batches = dataset.val.batches(250, device=device, resolution=self.job.space.resolution(architecture))
        return score(scored, batches, dataset.task)


def load_network(job: Job, architecture: Architecture) -> nn.Module:
    """A fine-tuned network of the run, in evaluation mode."""
    network = job.space.module(architecture)
    tensors, _ = read_tensors(scored_weights_path(job.folder, architecture.id))
    network.load_state_dict(tensors)
    return network.eval()


def candidate_rows(job: Job) -> dict[str, dict[str, Any]]:
    """The task's score of every finalist on validation images, by architecture id; the last phase counts.

    Of every fine-tuned entrant while the race is on.
    """
    rows: dict[str, dict[str, Any]] = {}
    for phase in PHASES:
        for found in job.store.evaluations(job.space, weights=f"{FINE_TUNED}.{phase}", split="val"):
            accuracy = job.dataset.task.score(found.outcome)
            rows[found.architecture.id] = {"architecture": found.architecture, "accuracy_val": accuracy}
    done = job.store.stage("specialise")
    return rows if done is None else {key: rows[key] for key in done["finalists"]}
