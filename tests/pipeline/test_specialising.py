from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from hwautoml.core.space import Architecture
from hwautoml.datasets import ImageDataset, load_dataset
from hwautoml.pipeline import specialising
from hwautoml.pipeline.budget import RANKED_EPOCHS, make_plan
from hwautoml.pipeline.job import Job
from hwautoml.pipeline.searching import promise, trained_enough
from hwautoml.pipeline.specialising import (
    HEADROOM,
    _diverse,
    _FineTuner,
    _next_to_screen,
    _race,
    candidate_rows,
    load_network,
)
from hwautoml.pipeline.training import CHECKPOINT, checkpoint
from hwautoml.pipeline.utilisation import LOWEST_UTILISATION, utilisation
from hwautoml.spaces.mobile import MobileSpace
from hwautoml.supernets.supernet import Supernet
from hwautoml.supernets.training import TrainState
from hwautoml.supernets.training_cost import TrainingCost


@pytest.fixture(scope="module")
def digits() -> ImageDataset:
    return load_dataset("digits")


@pytest.fixture
def searched(make_job: Callable[..., Job], digits: ImageDataset) -> Job:
    """As after the search stage, with a supernet of random weights and a second to specialise in."""
    job = make_job()
    job.dataset = digits
    job.plan = replace(make_plan(60.0, 1.0, False, 1.0), total=2.0, ship=0.5)
    torch.manual_seed(0)
    checkpoint(job, job.folder / CHECKPOINT, Supernet(job.space), TrainState(1.0, 8, 1))
    job.store.set_setting("elapsed_sec", 0.0)
    return job


def members(space: MobileSpace, number: int) -> list[Architecture]:
    return [space.sample(np.random.default_rng(seed)) for seed in range(number)]


def kinds(architecture: Architecture) -> tuple[object, ...]:
    return tuple(value for name, value in architecture.as_dict.items() if name.endswith(".kind"))


def test_half_of_the_entrants_go_on_until_one_is_left(
    searched: Job, space: MobileSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real training on the digits; every round trains the better half of the one before, for as long each."""
    rounds: list[tuple[str, str, float]] = []
    original = _FineTuner.train

    def train(self: _FineTuner, architecture: Architecture, phase: str, seconds: float) -> None:
        rounds.append((phase, architecture.id, seconds))
        original(self, architecture, phase, seconds)

    monkeypatch.setattr(specialising._FineTuner, "train", train)
    entrants = members(space, 4)
    finalists = _race(searched, _FineTuner(searched), entrants)
    assert [phase for phase, _, _ in rounds] == ["first"] * 4 + ["second"] * 2 + ["third"]
    assert len({seconds for _, _, seconds in rounds[:4]}) == len({seconds for _, _, seconds in rounds[4:6]}) == 1
    after_first = {
        e.architecture.id: e.accuracy
        for e in searched.store.evaluations(space, weights="fine-tuned.first", split="val")
    }
    better = sorted(after_first, key=lambda id: -after_first[id])[:2]
    assert {after_first[id] for _, id, _ in rounds[4:6]} == {after_first[id] for id in better}
    assert finalists[0].id == rounds[-1][1] and [a.id for a in finalists[1:]] == [
        id for _, id, _ in rounds[4:6] if id != finalists[0].id
    ]
    assert load_network(searched, finalists[0])(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_a_resumed_race_repeats_nothing(searched: Job, space: MobileSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    entrants = members(space, 2)
    _FineTuner(searched).train(entrants[0], "first", 0.2)
    trained: list[str] = []
    original = _FineTuner._train

    def count(self: _FineTuner, architecture: Architecture, *arguments: object) -> object:
        trained.append(architecture.id)
        return original(self, architecture, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(specialising._FineTuner, "_train", count)
    finalists = _race(searched, _FineTuner(searched), entrants)
    assert trained == [entrants[1].id, finalists[0].id]
    again = _race(searched, _FineTuner(searched), entrants)
    assert again == finalists and len(trained) == 2


def test_one_entrant_gets_all_the_time(searched: Job, space: MobileSpace) -> None:
    assert _race(searched, _FineTuner(searched), members(space, 1)) == members(space, 1)
    assert [e.weights for e in _fine_tuned(searched, space)] == ["fine-tuned.first"]


def test_only_finalists_are_exported_and_measured(searched: Job, space: MobileSpace) -> None:
    first, second = members(space, 2)
    for architecture in (first, second):
        _FineTuner(searched).train(architecture, "first", 0.1)
    assert candidate_rows(searched).keys() == {first.id, second.id}
    searched.store.finish_stage("specialise", 1.0, {"finalists": [second.id]})
    assert candidate_rows(searched).keys() == {second.id}


def _fine_tuned(job: Job, space: MobileSpace) -> list:  # type: ignore[type-arg]
    return [
        e
        for phase in specialising.PHASES
        for e in job.store.evaluations(space, weights=f"fine-tuned.{phase}", split="val")
    ]


def scored(job: Job, space: MobileSpace) -> dict[Architecture, float]:
    """The smaller, the better the score: as a supernet sees it that has hardly been trained."""
    architectures = members(space, 60)
    latencies = [job.table.predict(space.layers(a)).mean_ms for a in architectures]
    job.settings = replace(job.settings, latency_ms=float(np.median(latencies)) / HEADROOM)
    return {a: 1 - 0.01 * rank for rank, a in enumerate(np.array(architectures)[np.argsort(latencies)])}


@pytest.mark.parametrize("epochs", [0.0, RANKED_EPOCHS / 2, 2 * RANKED_EPOCHS])
def test_scores_choose_the_size_only_after_enough_epochs(make_job: Callable[..., Job], epochs: float) -> None:
    job = make_job()
    scores = scored(job, job.space)
    job.store.finish_stage("train", 1.0, {"epochs": epochs})
    chosen = _next_to_screen(job, scores, is_last=False)
    used = utilisation(job, chosen)
    assert used.max() <= HEADROOM + 1e-9 and len(chosen) == 8
    assert used.min() >= LOWEST_UTILISATION * (1 - trained_enough(job))
    smallest = utilisation(job, list(scores)).min()
    if epochs == 0.0:
        assert used.min() > smallest
    if epochs > RANKED_EPOCHS:
        assert used.min() == smallest, "its score is the best"


def test_when_none_can_be_trained_in_time_the_nearest_are_tried(make_job: Callable[..., Job]) -> None:
    job = make_job()
    scores = scored(job, job.space)
    job.store.finish_stage("train", 1.0, {"epochs": 0.1})
    job.training_cost, job.affordable_sec_per_image = TrainingCost(1e-10, 1e-9, 1e-6, 0.1), 1e-12
    job.dataset = load_dataset("digits")
    chosen, others = _next_to_screen(job, scores, is_last=False), list(scores)
    used = dict(zip(others, utilisation(job, others), strict=True))
    within = [a for a in others if job.table.predict(job.space.layers(a)).mean_ms <= HEADROOM * job.settings.latency_ms]
    assert [used[a] for a in chosen] == sorted(used[a] for a in within)[:8]


def test_capacity_stands_in_for_scores_that_cannot_be_trusted(make_job: Callable[..., Job]) -> None:
    job, architectures = make_job(), members(MobileSpace(8, 1, 10), 20)
    macs = np.array([job.space.total_cost(a).macs * job.space.total_cost(a).parameters for a in architectures])
    scores = np.random.default_rng(0).random(20)
    assert (np.argsort(promise(job, scores, architectures)) == np.argsort(macs)).all(), "nothing trained yet"
    job.store.finish_stage("train", 1.0, {"epochs": 2 * RANKED_EPOCHS})
    assert (np.argsort(promise(job, scores, architectures)) == np.argsort(scores)).all()


def test_entrants_differ_in_their_kinds_of_blocks_where_they_can(space: MobileSpace) -> None:
    twins = [space.architecture({**space.largest().as_dict, "resolution": side}) for side in (6, 8)]
    other = space.architecture({**space.largest().as_dict, "stage0.kind": "mbconv"})
    assert kinds(twins[0]) == kinds(twins[1]) != kinds(other)
    ordered = [*twins, other]
    assert _diverse(ordered, 2) == [twins[0], other]
    assert _diverse(ordered, 3) == ordered, "in their order"
    assert _diverse(ordered, 9) == ordered
    assert _diverse(twins, 2) == twins, "better a twin than none"
