"""Stage: from the front to finalists. Candidates that meet the limit by measurement (``screening``) race: each is
trained for the same *time*, not for the same number of images, so that one that trains slowly has to be worth it.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hwautoml.core.plan import Plan
from hwautoml.core.space import Architecture
from hwautoml.core.task import Outcome
from hwautoml.pipeline.runs.candidates import load_network, trained_networks, weights_path
from hwautoml.pipeline.runs.context import RunContext, set_aside
from hwautoml.pipeline.runs.int8_accuracy import keeps_accuracy
from hwautoml.pipeline.runs.journal import FINE_TUNED, PHASES
from hwautoml.pipeline.runs.outcomes import Specialised
from hwautoml.pipeline.runs.resources import Resources, batch_size
from hwautoml.pipeline.runs.trust import trust_of
from hwautoml.pipeline.stages.screening import entrants
from hwautoml.pipeline.stages.searching import shared_evaluator
from hwautoml.pipeline.stages.training import checkpoint, restore, training_batches, training_listener
from hwautoml.store.files import write_tensors
from hwautoml.store.run_store import Evaluation

if TYPE_CHECKING:
    import torch
    from torch import nn

    from hwautoml.supernets.evaluator import Evaluator
    from hwautoml.supernets.training import StepLoss

_log = logging.getLogger(__name__)

RACE_SHARE = 0.16  # of the fine-tuning time goes to the race, the rest to the leader


def specialise_stage(run: RunContext, resources: Resources, plan: Plan) -> Specialised:
    """Afterwards the run folder has the finalists' weights, and the journal their validation scores.

    Raises:
        LimitNotMetError: no candidate met the limit when it was measured.
    """
    return run.once(
        Specialised,
        lambda: _specialise(run, resources, plan),
        lambda done: [weights_path(run, network.architecture) for network in trained_networks(run, done).values()],
    )


def _specialise(run: RunContext, resources: Resources, plan: Plan) -> Specialised:
    entered = entrants(run, resources, plan)
    finalists = _race(run, plan, _FineTuner(run), entered)
    return Specialised(tuple(a.id for a in finalists), tuple(a.id for a in entered), finalists[0].id)


def _race(run: RunContext, plan: Plan, trainer: _FineTuner, entered: list[Architecture]) -> list[Architecture]:
    """Successive halving by the clock (Jamieson & Talwalkar 2016); those of the last rounds, the leader first.

    Every round is a training of its own with the learning rate down to zero: only then do accuracies compare.
    """
    num_rounds = math.ceil(math.log2(len(entered)))
    round_sec = RACE_SHARE * _left_sec(run, plan, PHASES[0]) / max(num_rounds, 1)
    survivors = ranked = entered
    for phase in PHASES[:num_rounds]:
        for architecture in survivors:
            trainer.train(architecture, phase, round_sec / len(survivors))
        trained = trained_networks(run)
        dropped = ranked[len(survivors) :]
        ranked = [*sorted(survivors, key=lambda a: -trained[a.id].accuracy_val), *dropped]
        survivors = ranked[: math.ceil(len(survivors) / 2)]
    ranked = _leader_first(run, plan, ranked)
    trainer.train(ranked[0], PHASES[num_rounds], _left_sec(run, plan, PHASES[num_rounds]))
    return _finalists(ranked, plan.num_finalists, run.journal.needing_int8)


def _leader_first(run: RunContext, plan: Plan, ranked: list[Architecture]) -> list[Architecture]:
    """Who gets most of the time must be able to ship: one that meets the limit in int8 alone is quantised as it is
    now, and where it loses too much by that, the best that needs no int8 takes its place."""
    risky = run.journal.needing_int8
    able = next((a for a in ranked if a.id not in risky), None)
    if ranked[0].id not in risky or able is None:
        return ranked
    kept = run.journal.leader_keeps_accuracy
    if kept is None:
        kept = keeps_accuracy(run, ranked[0], plan.total)
        run.journal.set_leader_keeps_accuracy(kept)
    return ranked if kept else [able, *(a for a in ranked if a != able)]


def _finalists(ranked: list[Architecture], number: int, risky: frozenset[str]) -> list[Architecture]:
    """As many as planned; one of them needs no int8, if there is any."""
    first, able = ranked[:number], [a for a in ranked if a.id not in risky]
    return first if not able or able[0] in first else [*first[: max(number - 1, 1)], able[0]]


def _left_sec(run: RunContext, plan: Plan, phase: str) -> float:
    """What is left of the budget when a phase begins, with the time to score and ship set aside."""
    now = max(plan.total - run.journal.elapsed_sec - plan.ship, 0.05 * plan.total)
    return run.journal.left_sec(phase, now)


class _FineTuner:
    """Trains subnets on their own, from their shared weights; every phase resumes from its checkpoint."""

    def __init__(self, run: RunContext) -> None:
        self.run, self.trust = run, trust_of(run)
        self._evaluator: Evaluator | None = None

    def train(self, architecture: Architecture, phase: str, seconds: float) -> None:
        journal = self.run.journal
        damaged = journal.damaged_files(architecture.id)
        if damaged:
            _log.warning("the trained weights of %s are damaged or missing; it is trained again", architecture.id)
            set_aside(damaged)
            journal.forget_fine_tuning(architecture)
        if journal.is_fine_tuned(architecture, phase):
            return
        path = self.run.folder / "checkpoints" / f"{architecture.id}.{phase}.safetensors"
        network, num_images = self._train(architecture, path, seconds)
        outcome = self._outcome(network, architecture)
        evaluation = Evaluation(architecture, f"{FINE_TUNED}.{phase}", "val", outcome, seconds)
        before = trained_networks(self.run).get(architecture.id)
        if before is None or self.run.dataset.task.score(outcome) >= before.accuracy_val:
            written = write_tensors(weights_path(self.run, architecture), dict(network.state_dict()))
            journal.keep_files(architecture.id, [written])
            journal.add_evaluation(evaluation)
        else:
            _log.warning("%s was better before its %s round; those weights are kept", architecture.id, phase)
        journal.finish_fine_tuning(architecture, phase, seconds, num_images)
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

        began, run, device = time.monotonic(), self.run, default_device()
        dataset = run.dataset
        network = self._starting_point(architecture)
        state = restore(path, network)
        model = Normalised(network, dataset.mean, dataset.std).train()
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own gap
        size = batch_size(dataset.train.num_images)
        settings = TrainSettings(batch_size=size, seed=run.settings.seed + 1)
        # Half the supernet's rate for weights that are already good.
        peak = settings.peak_learning_rate * (1 - 0.5 * self.trust)
        settings = replace(settings, peak_learning_rate=peak)
        batches = training_batches(dataset, size, device, run.space.resolution(architecture))
        images, labels = next(iter(batches(torch.Generator().manual_seed(0))))

        def make_step(dtype: torch.dtype | None) -> StepLoss:
            return network_step(model, task=dataset.task, dtype=dtype, device=device)

        setup = fastest_setup(network, make_step, images, labels)
        small_share = 0.5 * (1 - self.trust)  # good weights were trained at full size already
        state = train(
            network,
            with_growing_images(make_step(setup.dtype), lambda: state.seconds / seconds, small_share),
            batches,
            budget_sec=seconds - (time.monotonic() - began),
            settings=settings,
            state=state,
            images_per_epoch=dataset.train.num_images,
            on_progress=training_listener(run, "specialise", seconds),
            on_checkpoint=lambda current: checkpoint(run, path, network, current),
        )
        return network.eval(), state.images

    def _starting_point(self, architecture: Architecture) -> nn.Module:
        """The weights of an earlier phase, or else the supernet's."""
        if weights_path(self.run, architecture).is_file():
            return load_network(self.run, architecture)
        if self._evaluator is None:
            self._evaluator = shared_evaluator(self.run)
        return self._evaluator.recalibrated(architecture)

    def _outcome(self, network: nn.Module, architecture: Architecture) -> Outcome:
        from hwautoml.supernets.scoring import Normalised, score
        from hwautoml.supernets.training import default_device

        dataset, device = self.run.dataset, default_device()
        scored = Normalised(network, dataset.mean, dataset.std).to(device)
        batches = dataset.val.batches(250, device=device, resolution=self.run.space.resolution(architecture))
        return score(scored, batches, dataset.task)
