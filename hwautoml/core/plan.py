"""One wall-clock budget for the whole run, split over its stages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hwautoml.core import json_form

MAX_DEFAULT_SEC = 7200.0
MIN_SUPERNET_SHARE, MAX_SUPERNET_SHARE = 0.05, 0.6
AMPLE_EPOCHS = 60.0  # of the supernet
RANKED_EPOCHS = 20.0
PROBE_SHARE, MAX_PROBE_SEC = 0.3, 240.0
NEEDED_EPOCHS, MAX_NEEDED_IMAGES = 6.0, 1e6


@dataclass(frozen=True)
class Plan:
    """Seconds per stage. ``ship`` is an estimate, ``train``, ``search`` and ``tune`` are used up;
    ``specialise`` is what should be left, it gets what is left when it begins."""

    total: float
    train: float
    search: float
    ship: float
    tune: float
    num_finalists: int
    max_evaluations: int
    specialise: float = 0.0  # unknown in plans of earlier versions

    def to_json(self) -> dict[str, Any]:
        return json_form.to_json(self)

    @classmethod
    def from_json(cls, data: object) -> Plan:
        """Raises InvalidValueError, naming the field, where the data is no plan."""
        return json_form.from_json(cls, data, "the plan of a run")


def default_budget_sec(num_images: int, image_size: int) -> float:
    """About 95 s for the built-in digits, half an hour for CIFAR-10, two hours at most."""
    return min(95.0 + 0.035 * num_images * (image_size / 32) ** 2, MAX_DEFAULT_SEC)


def default_pretrained_budget_sec(num_images: int) -> float:
    """Five minutes for six hundred photographs, an hour at most."""
    return min(120.0 + 0.3 * num_images, MAX_DEFAULT_SEC / 2)


def profile_cap_sec(total: float) -> float:
    return min(max(0.12 * total, 10.0), 240.0)


def make_plan(total: float, elapsed: float, has_tvm: bool, supernet_epochs_per_sec: float) -> Plan:
    """Split what is left of ``total`` after ``elapsed`` seconds of loading and profiling.

    Exporting, compiling and measuring take what they take, so they are set aside first.
    """
    finalists = 1 if total < 60 else 2 if total < 1800 else 3
    tune = min(max(0.03 * total, 2.0), 120.0) if has_tvm else 0.0
    ship = min(10.0 + 0.015 * total + finalists * (2.5 + (5.0 if has_tvm else 0.0)) + tune, 0.6 * total)
    rest = max(total - elapsed - ship, 0.15 * total)
    epochs = supernet_epochs_per_sec * rest
    search = min((0.03 + 0.03 * min(epochs / AMPLE_EPOCHS, 1.0)) * rest, 120.0)
    train = supernet_share(epochs) * (rest - search)
    specialise = max(rest - search - train, 0.0)
    evaluations = 40 if total < 180 else 200
    return Plan(total, train, search, ship, tune, finalists, evaluations, specialise)


def make_pretrained_plan(total: float, elapsed: float, has_tvm: bool) -> Plan:
    """As ``make_plan``, where nothing has to be trained before members can be told apart: a part of the time goes into
    probing them, the rest into training the best. A race would tell less: it is judged by the validation images alone,
    of which there are few."""
    plan = make_plan(total, elapsed, has_tvm, supernet_epochs_per_sec=AMPLE_EPOCHS)
    rest = plan.train + plan.search + plan.specialise
    search = min(PROBE_SHARE * rest, MAX_PROBE_SEC)
    return replace(plan, train=0.0, search=search, specialise=rest - search, num_finalists=1)


def supernet_share(epochs: float) -> float:
    """Of the training time, when the supernet would see ``epochs`` in all of it.

    Shared weights pay off when they are trained well: then members are ranked by them, and finalists need little of
    their own. Every image of a sandwich costs as much as two or three of a network alone, so where only a few epochs
    can be had the time is the winner's, and the finalists' own training ranks them (``specialising``).
    """
    return MIN_SUPERNET_SHARE + (MAX_SUPERNET_SHARE - MIN_SUPERNET_SHARE) * min(epochs / AMPLE_EPOCHS, 1.0)


def trust_in_ranking(epochs: float) -> float:
    """0..1: how far scores of a supernet that was trained for so long may choose between small and large members.

    Small members learn first: after one epoch they score best whatever they could become. Every kind of block gets a
    part of the steps only, so it takes a few times the epochs of a network alone.
    """
    return min(epochs / RANKED_EPOCHS, 1.0)


def images_to_learn(num_images: int) -> float:
    """How many training images a network should see, or it is too large for the time there is."""
    return min(NEEDED_EPOCHS * num_images, MAX_NEEDED_IMAGES)
