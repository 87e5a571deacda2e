"""How much of what there is a network would use: of the latency limit, and of the time it can be trained in.

A network far below both is rarely the most accurate one; a network above the first must not ship, and one above the
second cannot be trained in the time that is left. ``screening`` looks between.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.plan import images_to_learn
from hwautoml.core.space import Architecture
from hwautoml.pipeline.runs.job import Job

if TYPE_CHECKING:
    from hwautoml.core.latency_table import LatencyTable
    from hwautoml.supernets.sandwich import Sandwich

REACH = 1.5  # a later search may loosen the limit this far; beyond, the shared weights are less trained
LOWEST_UTILISATION = 0.6
WINNER_SHARE = 0.75  # of the specialising time is the winner's, at least; the rest goes to measuring and to losers
TIMED_MEMBERS = 12
MAX_TIMING_SEC = 10.0


def batch_size(num_images: int) -> int:
    """Small sets gain more from many steps than from smooth ones (digits: 95.8 % against 93.8 % with 64)."""
    return 128 if num_images >= 10_000 else 64 if num_images >= 2_000 else 32


def sandwich_of(job: Job, reach: float = REACH) -> Sandwich:
    """Of members within reach: by default those that the supernet is trained for."""
    from hwautoml.supernets.sandwich import Sandwich

    return Sandwich(job.space, lambda architecture: is_within_reach(job, architecture, reach))


def is_within_reach(job: Job, architecture: Architecture, reach: float = REACH) -> bool:
    """Whether it uses up to ``reach`` times the limit and the training time."""
    return bool(utilisation(job, [architecture])[0] <= reach)


def lowest_utilisation(trust: float) -> float:
    """Networks that use less are left out while scores cannot tell (``trust`` 0..1) what size is worth."""
    return LOWEST_UTILISATION * (1 - trust)


def utilisation(
    job: Job, architectures: Sequence[Architecture], tables: Mapping[str, LatencyTable] | None = None
) -> NDArray[np.float64]:
    """(num_architectures,): shares of the latency limit (predicted, in the fastest form) or of the training time that
    the winner will have, whichever is more. Above 1 is too slow, to run or to train.

    ``tables`` are the run's unless others are given. Before the run has a plan, of the latency limit alone.
    """
    layers = [job.space.layers(a) for a in architectures]
    latency_ms = np.array([table.predict_many(layers)[0] for table in (tables or job.tables).values()]).min(0)
    used = latency_ms / job.settings.latency_ms
    if job.affordable_sec_per_image == float("inf"):
        return used
    return np.maximum(used, [sec_per_image(job, a) / job.affordable_sec_per_image for a in architectures])


def sec_per_image(job: Job, architecture: Architecture) -> float:
    """Of training it alone on this machine, predicted from the members that were timed."""
    return job.training_cost.sec_per_image(job.space.total_cost(architecture), batch_size(job.dataset.train.num_images))


def time_training(job: Job, budget_sec: float) -> None:
    """Set ``job.training_cost``: from the journal, or by timing members within the limit's reach."""
    from hwautoml.supernets.training import default_device
    from hwautoml.supernets.training_cost import TrainingCost, measure_training_cost

    stored = job.store.setting("training_cost")
    if stored is None:
        started, rng = time.monotonic(), np.random.default_rng(job.settings.seed)
        sandwich, train = sandwich_of(job), job.dataset.train
        # The middle first: the setup that it runs fastest with is taken for all.
        members = [sandwich.random(rng), sandwich.smallest(rng), sandwich.largest(rng)]
        members += [sandwich.random(rng) for _ in range(TIMED_MEMBERS - len(members))]
        images, labels = next(iter(train.batches(min(32, train.num_images), device=default_device())))
        cost = measure_training_cost(
            job.space, members, images.float(), labels, task=job.dataset.task, budget_sec=budget_sec
        )
        stored = asdict(cost)
        job.store.set_setting("training_cost", stored)
        job.report("train", 0.0, f"training speed timed in {time.monotonic() - started:.0f} s")
    job.training_cost = TrainingCost(**stored)


def afford(job: Job) -> None:
    """Set what the winner can afford, from the plan."""
    if job.plan.specialise > 0:
        num_images = images_to_learn(job.dataset.train.num_images)
        job.affordable_sec_per_image = WINNER_SHARE * job.plan.specialise / num_images


def supernet_epochs_per_sec(job: Job, num_draws: int = 16) -> float:
    """Of a sandwich step's images, each of which passes through three members; predicted."""
    rng, sandwich = np.random.default_rng(job.settings.seed), sandwich_of(job)
    draws = (sandwich.largest, sandwich.random, sandwich.smallest)
    seconds = [sum(sec_per_image(job, draw(rng)) for draw in draws) for _ in range(num_draws)]
    return 1.0 / (float(np.mean(seconds)) * job.dataset.train.num_images)
