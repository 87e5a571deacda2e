"""Stage: from the front to one winner - measured, fine-tuned, exported, compiled and measured again.

Latency does not depend on weights. So candidates are measured *before* anything is spent on
their training, and only those that meet the limit by measurement are trained on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwautoml.core.latency_table import LatencyTable, Observation
from hwautoml.core.measurement import Measurement
from hwautoml.core.space import Architecture
from hwautoml.devices.protocol import MeasureProtocol
from hwautoml.errors import CompileError, LimitNotMetError
from hwautoml.pipeline.artifacts import probe_builders
from hwautoml.pipeline.job import Job
from hwautoml.pipeline.searching import SHARED_WEIGHTS, Evaluator, fastest_runtimes, scored_weights_path
from hwautoml.pipeline.tables import kept_table_path, records_path, save_table
from hwautoml.pipeline.training import batch_size, checkpoint, restore, training_batches, training_listener
from hwautoml.profilers.layer_profiler import reference_architecture
from hwautoml.searchers.surrogate import smoothed
from hwautoml.store.files import read_tensors, write_tensors
from hwautoml.store.run_store import Evaluation

if TYPE_CHECKING:
    from torch import nn

_log = logging.getLogger(__name__)

FINE_TUNED = "fine-tuned"
SCREEN_SIZE = 8
MAX_SCREENS = 3
FIRST_ROUND_SHARE = 0.2  # of the fine-tuning time goes to all finalists, the rest to the leader alone


def specialise_stage(job: Job) -> None:
    """Afterwards the journal has the finalists' fine-tuned weights and validation scores.

    Raises:
        LimitNotMetError: no candidate met the limit when it was measured.
    """
    if job.store.stage("specialise") is not None:
        return
    with job.timed_stage("specialise") as payload:
        finalists = _finalists(job)
        trainer, leader = _FineTuner(job), finalists[0]
        if len(finalists) > 1:
            seconds = FIRST_ROUND_SHARE * _left_sec(job, "first")
            for architecture in finalists:
                trainer.train(architecture, "first", seconds / len(finalists))
            leader = max(finalists, key=lambda a: trainer.accuracy(a, "first"))
        trainer.train(leader, "second", _left_sec(job, "second"))
        payload["finalists"] = [a.id for a in finalists]
        payload["leader"] = leader.id


def _left_sec(job: Job, phase: str) -> float:
    """What is left of the budget when a phase begins, with the time to score and ship set aside.

    Written down, so that resuming keeps it.
    """
    stored = job.store.setting(f"left_sec.{phase}")
    if stored is None:
        stored = max(job.plan.total - job.elapsed_sec - job.plan.ship, 0.05 * job.plan.total)
        job.store.set_setting(f"left_sec.{phase}", stored)
    return float(stored)


def _finalists(job: Job) -> list[Architecture]:
    """The most accurate candidates that meet the limit by measurement, best first."""
    stored = job.store.setting("finalists")
    if stored is not None:
        return [job.space.architecture(values) for values in stored]
    scored = job.store.evaluations(job.space, weights=SHARED_WEIGHTS, split="val")
    scores = smoothed(job.space, {e.architecture: e.accuracy for e in scored})
    measured: dict[Architecture, Measurement] = {}
    untried = dict(scores)
    for number in range(MAX_SCREENS):
        screened = _next_to_screen(job, untried, is_last=number == MAX_SCREENS - 1)
        if not screened:
            break
        measured |= _screen(job, screened)
        untried = {a: score for a, score in untried.items() if a not in screened}
        passed = [a for a in measured if measured[a].interval_ms[1] <= job.settings.latency_ms]
        if passed:
            best = sorted(passed, key=lambda a: -scores[a])[: job.plan.num_finalists]
            job.store.set_setting("finalists", [a.as_dict for a in best])
            return best
    raise _limit_not_met(job, measured)


def _next_to_screen(job: Job, scores: dict[Architecture, float], *, is_last: bool) -> list[Architecture]:
    """The most accurate of those predicted to meet the limit; the prediction learns from every screening.

    The last time, and when none is predicted to, the fastest: if anything scored meets the limit, it is found.
    """
    if not scores:
        return []
    architectures = list(scores)
    _, means, _ = fastest_runtimes(job.space, job.tables, architectures)
    within = [a for a, ms in zip(architectures, means, strict=True) if ms <= job.settings.latency_ms]
    if within and not is_last:
        return sorted(within, key=lambda a: -scores[a])[:SCREEN_SIZE]
    return [architectures[i] for i in np.argsort(means)[:SCREEN_SIZE]]


def _screen(job: Job, architectures: Sequence[Architecture]) -> dict[Architecture, Measurement]:
    """Measure with random weights, each on its predicted fastest runtime; every figure improves that table."""
    job.report("specialise", 0.0, f"measuring {len(architectures)} candidates")
    runtimes, _, _ = fastest_runtimes(job.space, job.tables, architectures)
    measured: dict[Architecture, Measurement] = {}
    for runtime in dict.fromkeys(runtimes):
        group = [a for a, r in zip(architectures, runtimes, strict=True) if r == runtime]
        measured |= _screen_on(job, runtime, group)
    return measured


def _screen_on(job: Job, runtime: str, architectures: Sequence[Architecture]) -> dict[Architecture, Measurement]:
    folder, table = job.folder / "probes", job.tables[runtime]
    builders = probe_builders(job.space, job.target, runtime, records_path(job.target, job.profiles_dir))
    paths: dict[Architecture, Path] = {}
    for architecture in architectures:
        try:
            paths[architecture] = builders.network(architecture, folder / f"{architecture.id}.{runtime}")
        except CompileError as error:
            _log.warning("%s cannot be built for %s and is left out: %s", architecture.id, runtime, error)
    reference = builders.network(reference_architecture(job.space), folder / f"reference.{runtime}")
    max_total_sec = min(4.0 * len(architectures), max(0.05 * job.plan.total, 5.0))
    protocol = MeasureProtocol(target_relative_interval=0.01, max_total_sec=max_total_sec)
    results = job.device(runtime).measure(list(paths.values()), reference, protocol)
    measured = {a: r for a, r in zip(paths, results, strict=True) if isinstance(r, Measurement)}
    for architecture, result in measured.items():
        payload = {"samples_ms": list(result.samples_ms), "conditions": dict(result.conditions), "weights": "random"}
        job.store.add_measurement(architecture.id, job.target.name, runtime, payload)
    _keep_predictions(job, list(measured), runtime)
    known = {o.architecture_id for o in table.observations}
    observations = [_observation(job, table, a, m) for a, m in measured.items() if a.id not in known]
    job.tables[runtime] = table.with_observations(observations)
    save_table(job.tables[runtime], kept_table_path(job, runtime))
    return measured


def _observation(job: Job, table: LatencyTable, architecture: Architecture, measured: Measurement) -> Observation:
    """At the speed the machine had when the table was made, by the reference network that both timed."""
    then, now = (c.get("reference_median_ms") for c in (table.conditions, measured.conditions))
    scale = then / now if isinstance(then, float) and isinstance(now, float) else 1.0
    counts = table.counts(job.space.layers(architecture))
    session = str(measured.conditions.get("date", ""))
    return Observation(architecture.id, counts, scale * measured.median_ms, scale * measured.deviation_ms, session)


def _keep_predictions(job: Job, architectures: Sequence[Architecture], runtime: str) -> None:
    """What the table said *before* these measurements improved it: the only honest prediction to compare with."""
    kept = job.store.setting("predictions", {})
    for architecture in architectures:
        estimate = job.tables[runtime].predict(job.space.layers(architecture))
        row = {"runtime": runtime, "mean_ms": estimate.mean_ms, "interval_ms": list(estimate.interval_ms)}
        kept.setdefault(architecture.id, row)
    job.store.set_setting("predictions", kept)


def _limit_not_met(job: Job, measured: dict[Architecture, Measurement]) -> LimitNotMetError:
    limit = job.settings.latency_ms
    if not measured:
        return LimitNotMetError(
            f"no scored candidate is predicted to run within {limit:g} ms on {job.target.name}",
            fix="a higher --latency-ms, or a longer --budget so that more candidates are scored",
        )
    nearest = min(measured, key=lambda a: measured[a].interval_ms[1])
    found = measured[nearest]
    job.store.set_setting("nearest", {"id": nearest.id})
    low, high = found.interval_ms
    return LimitNotMetError(
        f"none of {len(measured)} measured candidates meets {limit:g} ms on {job.target.name}; the nearest, "
        f"{nearest.id}, takes {found.median_ms:.3g} ms (measured, 95 % interval {low:.3g} to {high:.3g})",
        fix=f"--latency-ms {high * 1.1:.2g}; the nearest one is kept: "
        f"hwautoml export --run {job.folder} --arch {nearest.id} --format onnx",
    )


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
        evaluation = Evaluation(
            architecture, f"{FINE_TUNED}.{phase}", "val", self._confusion(network, architecture), seconds
        )
        before = candidate_rows(self.job).get(architecture.id)
        if before is None or evaluation.accuracy >= before["accuracy_val"]:
            write_tensors(scored_weights_path(self.job.folder, architecture.id), dict(network.state_dict()))
            self.job.store.add_evaluation(evaluation)
        else:
            _log.warning("%s was better before its %s round; those weights are kept", architecture.id, phase)
        self.job.store.finish_stage(f"fine-tune.{phase}.{architecture.id}", seconds, {"images": num_images})
        path.unlink(missing_ok=True)

    def accuracy(self, architecture: Architecture, phase: str) -> float:
        found = self.job.store.evaluations(self.job.space, weights=f"{FINE_TUNED}.{phase}", split="val")
        return next(e.accuracy for e in found if e.architecture == architecture)

    def _train(self, architecture: Architecture, path: Path, seconds: float) -> tuple[nn.Module, int]:
        import torch

        from hwautoml.supernets.scoring import Normalised
        from hwautoml.supernets.training import TrainSettings, default_device, fastest_setup, network_step, train

        began, job, device = time.monotonic(), self.job, default_device()
        network = self._starting_point(architecture)
        state = restore(path, network)
        model = (
            Normalised(network, job.dataset.mean, job.dataset.std).to(device, memory_format=torch.channels_last).train()
        )
        size = batch_size(job.dataset.train.num_images)
        # Half the supernet's rate: the weights are already good.
        settings = replace(TrainSettings(batch_size=size, seed=job.settings.seed + 1), peak_learning_rate=0.1)
        batches = training_batches(job.dataset, size, device, job.space.resolution(architecture))
        images, labels = next(iter(batches(torch.Generator().manual_seed(0))))

        def make_step(dtype: torch.dtype | None):  # type: ignore[no-untyped-def]
            return network_step(model, settings=settings, dtype=dtype, device=device)

        setup = fastest_setup(network, make_step, images, labels)
        state = train(
            network,
            make_step(setup.dtype),
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

    def _confusion(self, network: nn.Module, architecture: Architecture) -> np.ndarray:
        from hwautoml.supernets.scoring import Normalised, confusion_matrix
        from hwautoml.supernets.training import default_device

        dataset, device = self.job.dataset, default_device()
        scored = Normalised(network, dataset.mean, dataset.std).to(device)
        batches = dataset.val.batches(250, device=device, resolution=self.job.space.resolution(architecture))
        return confusion_matrix(scored, batches, dataset.num_classes)


def load_network(job: Job, architecture: Architecture) -> nn.Module:
    """A fine-tuned network of the run, in evaluation mode."""
    network = job.space.module(architecture)
    tensors, _ = read_tensors(scored_weights_path(job.folder, architecture.id))
    network.load_state_dict(tensors)
    return network.eval()


def candidate_rows(job: Job) -> dict[str, dict[str, Any]]:
    """Validation accuracy of every fine-tuned finalist, by architecture id; the last phase counts."""
    rows: dict[str, dict[str, Any]] = {}
    for phase in ("first", "second"):
        for found in job.store.evaluations(job.space, weights=f"{FINE_TUNED}.{phase}", split="val"):
            rows[found.architecture.id] = {"architecture": found.architecture, "accuracy_val": found.accuracy}
    return rows
