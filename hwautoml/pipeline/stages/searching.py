"""Stage and verb: the front of accuracy against latency; evaluations are journaled as they finish."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.latency_predictor import Predictor
from hwautoml.core.plan import trust_in_ranking
from hwautoml.core.space import Architecture, SearchSpace
from hwautoml.pipeline.runs.job import Job
from hwautoml.pipeline.runs.outcomes import scores_of
from hwautoml.pipeline.runs.utilisation import lowest_utilisation, sandwich_of, utilisation
from hwautoml.pipeline.stages.training import load_supernet
from hwautoml.searchers import load_searcher
from hwautoml.searchers.problem import SearchProblem, front
from hwautoml.searchers.surrogate import guessed
from hwautoml.store.run_store import Evaluation

if TYPE_CHECKING:
    import torch

    from hwautoml.core.latency_table import LatencyTable
    from hwautoml.datasets import ImageDataset
    from hwautoml.spaces.mobile import MobileSpace

SHARED_WEIGHTS = "supernet"
MIN_VALIDATION_IMAGES, MAX_VALIDATION_IMAGES = 500, 2000
RECALIBRATION_IMAGES, RECALIBRATION_BATCH = 512, 128
LARGE_RESOLUTION = 64
FOCUS_SHARE = 0.6  # of the search time, at most, for members that are worth training
FOCUS_DRAWS, FOCUS_BATCH, MIN_FOCUSED = 128, 8, 8


def search_stage(job: Job) -> None:
    """The front; and while a supernet is too little trained to say whether large or small members are better, scores
    of members that use what there is, to choose between those (``utilisation``)."""
    if job.store.stage("search") is not None:
        return
    with job.timed_stage("search") as payload:
        spent = float(job.store.setting("seconds.search", 0.0))  # by a session that was interrupted
        budget_sec = max(job.plan.search - spent, 0.0)
        focus_sec = FOCUS_SHARE * (1 - trained_enough(job)) * budget_sec
        problem = run_search(job, job.tables, job.settings.latency_ms, job.plan.max_evaluations, budget_sec - focus_sec)
        if trained_enough(job) < 1:
            _score_where_it_counts(job, problem, focus_sec)
        payload["num_evaluations"] = len(problem.scores)


def trained_enough(job: Job) -> float:
    """0..1: how far the supernet's scores may choose between small and large members."""
    return trust_in_ranking(float((job.store.stage("train") or {}).get("epochs", 0.0)))


def promise(job: Job, scores: NDArray[np.float64], architectures: Sequence[Architecture]) -> NDArray[np.float64]:
    """(num_architectures,): their scores as far as the supernet can be trusted, and for the rest their capacity.

    Capacity is the product of multiply-accumulates and parameters, each of which ranks networks about as well as any
    other figure that needs no training (White et al. 2022, "A deeper look at zero-cost proxies"). Among networks that
    train equally fast it favours those whose operations the machine does best. Both in standard deviations.
    """
    costs = [job.space.total_cost(a) for a in architectures]
    capacity = np.log([c.macs for c in costs]) + np.log([c.parameters for c in costs])
    trust = trained_enough(job)
    return trust * _standardised(scores) + (1 - trust) * _standardised(capacity)


def _standardised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return (values - values.mean()) / max(float(values.std()), 1e-9)


def _score_where_it_counts(job: Job, problem: SearchProblem, budget_sec: float) -> None:
    """Score the most promising of many random members that are worth training; a few of them at least."""
    ends, num_scored = time.monotonic() + budget_sec, 0
    lowest, sandwich = lowest_utilisation(trained_enough(job)), sandwich_of(job, reach=1.0)
    while True:
        drawn = [job.space.sample(problem.rng) for _ in range(FOCUS_DRAWS)]
        drawn += [sandwich.random(problem.rng) for _ in range(FOCUS_BATCH)]  # also where few are small enough
        used = utilisation(job, drawn)
        fresh = {a: None for a, share in zip(drawn, used, strict=True) if lowest <= share <= 1}
        candidates = [a for a in fresh if a not in problem.scores]
        if not candidates:
            return
        scores = guessed(job.space, problem.scores, candidates)
        for index in np.argsort(-promise(job, scores, candidates))[:FOCUS_BATCH]:
            if time.monotonic() > ends and num_scored >= MIN_FOCUSED:
                return
            problem.evaluate_once(candidates[index])
            num_scored += 1


def run_search(
    job: Job,
    tables: Mapping[str, LatencyTable],
    limit_ms: float,
    max_evaluations: int,
    budget_sec: float,
    seed: int | None = None,
) -> SearchProblem:
    """Search from everything the journal already knows; ``seed`` defaults to the run's."""
    known = job.store.evaluations(job.space, weights=SHARED_WEIGHTS, split="val")
    problem = SearchProblem(
        space=job.space,
        evaluate=_LazyEvaluator(job),
        latencies=latencies_of(job.space, tables),
        limit_ms=limit_ms,
        rng=np.random.default_rng(job.settings.seed if seed is None else seed),
        max_evaluations=max_evaluations,
        budget_sec=budget_sec,
        scores=scores_of(job.dataset.task, known),
        on_progress=lambda done, total, text: job.report("search", min(done / total, 0.999), text),
    )
    load_searcher(job.settings.searcher).search(problem)
    return problem


def latencies_of(
    space: MobileSpace, tables: Mapping[str, LatencyTable]
) -> Callable[[Sequence[Architecture]], tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """In each architecture's fastest form; for thousands of questions about the same tables."""
    predictors = [Predictor(table, space) for table in tables.values()]

    def latencies(architectures: Sequence[Architecture]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        encodings = np.array([space.encode(a) for a in architectures], dtype=np.int64)
        encodings = encodings.reshape(len(architectures), len(space.choices))
        predicted = np.array([predictor.predict(encodings) for predictor in predictors])  # (forms, 2, n)
        best, columns = predicted[:, 0].argmin(axis=0), np.arange(len(architectures))
        return predicted[best, 0, columns], predicted[best, 1, columns]

    return latencies


def fastest_forms(
    space: SearchSpace, tables: Mapping[str, LatencyTable], architectures: Sequence[Architecture]
) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """Predicted fastest form of each architecture (a key of ``tables``), its mean and its deviation in ms."""
    layers = [space.layers(a) for a in architectures]
    predicted = [table.predict_many(layers) for table in tables.values()]
    means, deviations = np.array([p[0] for p in predicted]), np.array([p[1] for p in predicted])
    best = means.argmin(0)
    names, columns = list(tables), np.arange(len(layers))
    return [names[i] for i in best], means[best, columns], deviations[best, columns]


def front_rows(problem: SearchProblem, tables: Mapping[str, LatencyTable], origin: str) -> list[dict[str, Any]]:
    """The front as plain rows, fastest first; each says in what form its latency is predicted."""
    architectures = front(problem)
    if not architectures:
        return []
    forms, means, deviations = fastest_forms(problem.space, tables, architectures)
    return [
        {
            "id": a.id,
            "values": a.as_dict,
            "accuracy_val": problem.scores[a],
            "latency_ms": float(ms),
            "latency_std_ms": float(std),
            "latency_origin": origin,
            "runtime": tables[form].runtime,
            "precision": tables[form].precision,
            "meets_limit": bool(ms <= problem.limit_ms),
        }
        for a, form, ms, std in zip(architectures, forms, means, deviations, strict=True)
    ]


class Evaluator:
    """Scores subnets of a trained supernet on a fixed part of the validation split."""

    def __init__(self, job: Job) -> None:
        from hwautoml.supernets.training import default_device

        self.job, self.device = job, default_device()
        self.supernet = load_supernet(job)
        self._recalibration: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self._validation: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def __call__(self, architecture: Architecture) -> float:
        from hwautoml.supernets.scoring import Normalised, score

        started = time.monotonic()
        resolution = self.job.space.resolution(architecture)
        network = self.recalibrated(architecture)
        scored = Normalised(network, self.job.dataset.mean, self.job.dataset.std).to(self.device)
        task = self.job.dataset.task
        outcome = score(scored, self._validation_batches(resolution), task)
        evaluation = Evaluation(architecture, SHARED_WEIGHTS, "val", outcome, time.monotonic() - started)
        self.job.store.add_evaluation(evaluation)
        return task.score(outcome)

    def recalibrated(self, architecture: Architecture) -> torch.nn.Module:
        """The subnet cut out, with BatchNorm statistics of its own."""
        from hwautoml.supernets.scoring import Normalised, recalibrate

        network = self.supernet.cut_out(architecture)
        normalised = Normalised(network, self.job.dataset.mean, self.job.dataset.std).to(self.device)
        recalibrate(normalised, self.recalibration_batches(self.job.space.resolution(architecture)))
        return network

    def recalibration_batches(self, resolution: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        if resolution not in self._recalibration:
            self._recalibration[resolution] = recalibration_batches(self.job.dataset, resolution, self.device)
        return self._recalibration[resolution]

    def _validation_batches(self, resolution: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        if resolution not in self._validation:
            import torch

            # Shuffled: a split is ordered by class, and a part of it must hold them all.
            batches = self.job.dataset.val.batches(
                250,
                shuffle=True,
                generator=torch.Generator().manual_seed(0),
                device=self.device,
                resolution=resolution,
            )
            # Large images stay in memory as floats for every score: fewer of them. And fewer for scores that say
            # little, so that there are more.
            share = min(1.0, (LARGE_RESOLUTION / resolution) ** 2) * trained_enough(self.job)
            wanted = max(round(share * MAX_VALIDATION_IMAGES), MIN_VALIDATION_IMAGES)
            self._validation[resolution] = _first(batches, wanted)
        return self._validation[resolution]


class _LazyEvaluator:
    """Loads the supernet when the first evaluation is asked for: a search of known scores needs no weights."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.evaluator: Evaluator | None = None

    def __call__(self, architecture: Architecture) -> float:
        if self.evaluator is None:
            self.evaluator = Evaluator(self.job)
        return self.evaluator(architecture)


def recalibration_batches(
    dataset: ImageDataset, resolution: int, device: str
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """A fixed, shuffled part of the training images without augmentation."""
    import torch

    generator = torch.Generator().manual_seed(0)
    # Each batch counts alike in the statistics, so none may be a remainder of a few images.
    number = min(dataset.train.num_images, RECALIBRATION_IMAGES)
    size = math.ceil(number / math.ceil(number / RECALIBRATION_BATCH))
    batches = dataset.train.batches(size, shuffle=True, generator=generator, device=device, resolution=resolution)
    return _first(batches, RECALIBRATION_IMAGES)


def _first(batches: Any, num_images: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    taken, count = [], 0
    for images, labels in batches:
        taken.append((images, labels))
        count += len(labels)
        if count >= num_images:
            break
    return taken


def scored_weights_path(folder: Path, architecture_id: str) -> Path:
    return folder / "candidates" / architecture_id / "weights.safetensors"
