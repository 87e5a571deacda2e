"""How much of what there is a network would use: of the latency limit, and of the time it can be trained in.

A network far below both is rarely the most accurate one; a network above the first must not ship, and one above the
second cannot be trained in the time that is left. ``screening`` looks between.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.plan import Plan, images_to_learn
from hwautoml.core.space import Architecture
from hwautoml.pipeline.runs.context import RunContext

if TYPE_CHECKING:
    from hwautoml.core.elastic_space import ElasticSpace
    from hwautoml.core.latency_table import LatencyTable
    from hwautoml.core.training_cost import TrainingCost
    from hwautoml.supernets.sandwich import Sandwich

REACH = 1.5  # a later search may loosen the limit this far; beyond, the shared weights are less trained
LOWEST_UTILISATION = 0.6
WINNER_SHARE = 0.75  # of the specialising time is the winner's, at least; the rest goes to measuring and to losers
TIMED_MEMBERS = 12
MAX_TIMING_SEC = 10.0


def batch_size(num_images: int) -> int:
    """Small sets gain more from many steps than from smooth ones (digits: 95.8 % against 93.8 % with 64)."""
    return 128 if num_images >= 10_000 else 64 if num_images >= 2_000 else 32


@dataclass(frozen=True)
class Resources:
    """What networks of ``space`` may use. ``tables`` are by form, the fastest counts.

    ``affordable_sec_per_image``: of training the winner alone, once there is a plan. While ``training_cost`` is not
    known only the latency counts.
    """

    space: ElasticSpace
    tables: Mapping[str, LatencyTable]
    limit_ms: float
    num_images: int
    training_cost: TrainingCost | None = None
    affordable_sec_per_image: float = float("inf")

    def afford(self, plan: Plan) -> Resources:
        """With what the plan leaves for training the winner."""
        if plan.specialise <= 0:
            return self
        affordable = WINNER_SHARE * plan.specialise / images_to_learn(self.num_images)
        return replace(self, affordable_sec_per_image=affordable)

    def sandwich(self, reach: float = REACH) -> Sandwich:
        """Of members within reach: by default those that the supernet is trained for."""
        from hwautoml.supernets.sandwich import Sandwich

        return Sandwich(self.space, lambda architecture: self.is_within_reach(architecture, reach))

    def is_within_reach(self, architecture: Architecture, reach: float = REACH) -> bool:
        """Whether it uses up to ``reach`` times the limit and the training time."""
        return bool(self.utilisation([architecture])[0] <= reach)

    def utilisation(
        self, architectures: Sequence[Architecture], tables: Mapping[str, LatencyTable] | None = None
    ) -> NDArray[np.float64]:
        """(num_architectures,): shares of the latency limit (predicted, in the fastest form) or of the training time
        that the winner will have, whichever is more. Above 1 is too slow, to run or to train.

        ``tables``: other ones than the run's, such as those of one precision.
        """
        layers = [self.space.layers(a) for a in architectures]
        latency_ms = np.array([table.predict_many(layers)[0] for table in (tables or self.tables).values()]).min(0)
        used = latency_ms / self.limit_ms
        if self.affordable_sec_per_image == float("inf"):
            return used
        return np.maximum(used, [self.sec_per_image(a) / self.affordable_sec_per_image for a in architectures])

    def sec_per_image(self, architecture: Architecture) -> float:
        """Of training it alone on this machine, predicted from the members that were timed."""
        assert self.training_cost is not None, "training is timed before anything is planned"
        return self.training_cost.sec_per_image(self.space.total_cost(architecture), batch_size(self.num_images))

    def supernet_epochs_per_sec(self, seed: int, num_draws: int = 16) -> float:
        """Of a sandwich step's images, each of which passes through three members; predicted."""
        rng, sandwich = np.random.default_rng(seed), self.sandwich()
        draws = (sandwich.largest, sandwich.random, sandwich.smallest)
        seconds = [sum(self.sec_per_image(draw(rng)) for draw in draws) for _ in range(num_draws)]
        return 1.0 / (float(np.mean(seconds)) * self.num_images)


def lowest_utilisation(trust: float) -> float:
    """Networks that use less are left out while scores cannot tell (``trust`` 0..1) what size is worth."""
    return LOWEST_UTILISATION * (1 - trust)


def resources_of(run: RunContext, tables: Mapping[str, LatencyTable]) -> Resources:
    """As far as the journal knows: with the plan's time to train once there is a plan."""
    found = Resources(
        run.space, tables, run.limit_ms, run.dataset.train.num_images, training_cost=run.journal.training_cost
    )
    plan = run.journal.plan
    return found if plan is None else found.afford(plan)


def time_training(run: RunContext, resources: Resources, budget_sec: float) -> TrainingCost:
    """What training costs here: from the journal, or by timing members within the limit's reach."""
    from hwautoml.supernets.training import default_device
    from hwautoml.supernets.training_cost import measure_training_cost

    stored = run.journal.training_cost
    if stored is not None:
        return stored
    started, rng = time.monotonic(), np.random.default_rng(run.settings.seed)
    sandwich, train = resources.sandwich(), run.dataset.train
    # The middle first: the setup that it runs fastest with is taken for all.
    members = [sandwich.random(rng), sandwich.smallest(rng), sandwich.largest(rng)]
    members += [sandwich.random(rng) for _ in range(TIMED_MEMBERS - len(members))]
    images, labels = next(iter(train.batches(min(32, train.num_images), device=default_device())))
    task = run.dataset.task
    cost = measure_training_cost(run.space, members, images.float(), labels, task=task, budget_sec=budget_sec)
    run.journal.set_training_cost(cost)
    run.report("train", 0.0, f"training speed timed in {time.monotonic() - started:.0f} s")
    return cost
