"""Stage: from the front to one winner - measured, fine-tuned, exported, compiled and measured again.

Latency does not depend on weights. So candidates are measured *before* anything is spent on
their training, and only those that meet the limit by measurement are trained on. The entrants then race: each is
trained for the same *time*, not for the same number of images, so that one that trains slowly has to be worth it.
"""

from __future__ import annotations

import logging
import math
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
from hwautoml.pipeline.searching import (
    SHARED_WEIGHTS,
    Evaluator,
    fastest_runtimes,
    promise,
    scored_weights_path,
    trained_enough,
)
from hwautoml.pipeline.tables import kept_table_path, records_path, save_table
from hwautoml.pipeline.training import checkpoint, restore, training_batches, training_listener
from hwautoml.pipeline.utilisation import batch_size, lowest_utilisation, utilisation
from hwautoml.profilers.reference import reference_architecture
from hwautoml.searchers.surrogate import smoothed
from hwautoml.store.files import read_tensors, write_tensors
from hwautoml.store.run_store import Evaluation

if TYPE_CHECKING:
    from torch import nn

_log = logging.getLogger(__name__)

FINE_TUNED = "fine-tuned"
SCREEN_SIZE = 8
MAX_SCREENS = 3
PHASES = ("first", "second", "third", "fourth")  # rounds of the race, the last is the leader's alone
RACE_SHARE = 0.16  # of the fine-tuning time goes to the race, the rest to the leader
HEADROOM = 0.95  # of the limit when candidates are screened: a machine's speed drifts until the files are measured


def specialise_stage(job: Job) -> None:
    """Afterwards the journal has the finalists' fine-tuned weights and validation scores.

    Raises:
        LimitNotMetError: no candidate met the limit when it was measured.
    """
    if job.store.stage("specialise") is not None:
        return
    with job.timed_stage("specialise") as payload:
        entrants = _entrants(job)
        finalists = _race(job, _FineTuner(job), entrants)
        payload["entrants"] = [a.id for a in entrants]
        payload["finalists"] = [a.id for a in finalists]
        payload["leader"] = finalists[0].id


def _race(job: Job, trainer: _FineTuner, entrants: list[Architecture]) -> list[Architecture]:
    """Successive halving by the clock (Jamieson & Talwalkar 2016); those of the last round, the leader first.

    Every round is a training of its own with the learning rate down to zero: only then do accuracies compare.
    """
    num_rounds = math.ceil(math.log2(len(entrants)))
    round_sec = RACE_SHARE * _left_sec(job, PHASES[0]) / max(num_rounds, 1)
    survivors = last = entrants
    for phase in PHASES[:num_rounds]:
        for architecture in survivors:
            trainer.train(architecture, phase, round_sec / len(survivors))
        rows = candidate_rows(job)
        last = sorted(survivors, key=lambda a: -rows[a.id]["accuracy_val"])
        survivors = last[: math.ceil(len(last) / 2)]
    trainer.train(survivors[0], PHASES[num_rounds], _left_sec(job, PHASES[num_rounds]))
    return last[: job.plan.num_finalists]


def _left_sec(job: Job, phase: str) -> float:
    """What is left of the budget when a phase begins, with the time to score and ship set aside.

    Written down, so that resuming keeps it.
    """
    stored = job.store.setting(f"left_sec.{phase}")
    if stored is None:
        stored = max(job.plan.total - job.elapsed_sec - job.plan.ship, 0.05 * job.plan.total)
        job.store.set_setting(f"left_sec.{phase}", stored)
    return float(stored)


def _entrants(job: Job) -> list[Architecture]:
    """The most promising candidates that meet the limit by measurement, best first.

    Twice as many as finalists while the supernet's scores say little: their own training tells more.
    """
    stored = job.store.setting("entrants")
    if stored is not None:
        return [job.space.architecture(values) for values in stored]
    scored = job.store.evaluations(job.space, weights=SHARED_WEIGHTS, split="val")
    smooth = smoothed(job.space, {e.architecture: e.accuracy for e in scored})
    scores = dict(zip(smooth, promise(job, np.array(list(smooth.values())), list(smooth)), strict=True))
    measured: dict[Architecture, Measurement] = {}
    untried = dict(scores)
    number_wanted = job.plan.num_finalists * (1 if trained_enough(job) == 1 else 2)
    for number in range(MAX_SCREENS):
        screened = _next_to_screen(job, untried, is_last=number == MAX_SCREENS - 1)
        if not screened:
            break
        measured |= _screen(job, screened)
        untried = {a: score for a, score in untried.items() if a not in screened}
        passed = [a for a in measured if measured[a].interval_ms[1] <= job.settings.latency_ms]
        safe = [a for a in passed if measured[a].interval_ms[1] <= HEADROOM * job.settings.latency_ms]
        if passed:
            best = _diverse(sorted(safe or passed, key=lambda a: -scores[a]), number_wanted)
            job.store.set_setting("entrants", [a.as_dict for a in best])
            return best
    raise _limit_not_met(job, measured)


def _next_to_screen(job: Job, scores: dict[Architecture, float], *, is_last: bool) -> list[Architecture]:
    """The most promising of those predicted to meet the limit; the prediction learns from every screening.

    Of those that can be trained in the time left, and while scores cannot choose between small and large members, of
    those that are no smaller than they have to be. The last time, and when none is predicted to meet the limit, the
    fastest: if anything scored meets it, it is found.
    """
    if not scores:
        return []
    architectures = list(scores)
    _, means, _ = fastest_runtimes(job.space, job.tables, architectures)
    within = [a for a, ms in zip(architectures, means, strict=True) if ms <= HEADROOM * job.settings.latency_ms]
    if within and not is_last:
        used, lowest = utilisation(job, within), lowest_utilisation(trained_enough(job))
        if used.min() > 1:  # none can be trained well: those that come nearest
            return [within[i] for i in np.argsort(used)[:SCREEN_SIZE]]
        trainable = [a for a, share in zip(within, used, strict=True) if share <= 1]
        large = [a for a, share in zip(within, used, strict=True) if lowest <= share <= 1]
        return _diverse(sorted(large or trainable, key=lambda a: -scores[a]), SCREEN_SIZE)
    return [architectures[i] for i in np.argsort(means)[:SCREEN_SIZE]]


def _diverse(architectures: list[Architecture], number: int) -> list[Architecture]:
    """Up to ``number`` of them in their order, those with kinds of blocks of their own first: scores of near twins
    differ by chance, and a wrong guess about a kind would be every twin's."""
    kinds = {a: tuple(v for name, v in a.as_dict.items() if name.endswith(".kind")) for a in reversed(architectures)}
    firsts = {kind: a for a, kind in kinds.items()}
    chosen = [a for a in architectures if firsts[kinds[a]] is a][:number]
    chosen += [a for a in architectures if a not in chosen][: number - len(chosen)]
    return sorted(chosen, key=architectures.index)


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
            return network_step(model, settings=settings, dtype=dtype, device=device)

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
    """Validation accuracy of every finalist, by architecture id; the last phase counts.

    Of every fine-tuned entrant while the race is on.
    """
    rows: dict[str, dict[str, Any]] = {}
    for phase in PHASES:
        for found in job.store.evaluations(job.space, weights=f"{FINE_TUNED}.{phase}", split="val"):
            rows[found.architecture.id] = {"architecture": found.architecture, "accuracy_val": found.accuracy}
    done = job.store.stage("specialise")
    return rows if done is None else {key: rows[key] for key in done["finalists"]}
