from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.plan import RANKED_EPOCHS, make_plan
from hwautoml.core.space import Architecture
from hwautoml.datasets import load_dataset
from hwautoml.pipeline.runs.job import Job
from hwautoml.pipeline.runs.utilisation import LOWEST_UTILISATION, utilisation
from hwautoml.pipeline.stages.screening import HEADROOM, _diverse, _next_to_screen, entrants, needing_int8
from hwautoml.pipeline.stages.searching import promise, trained_enough
from hwautoml.spaces.mobile import MobileSpace
from hwautoml.store.run_store import Evaluation
from hwautoml.supernets.training_cost import TrainingCost


def members(space: MobileSpace, number: int) -> list[Architecture]:
    return [space.sample(np.random.default_rng(seed)) for seed in range(number)]


def kinds(architecture: Architecture) -> tuple[object, ...]:
    return tuple(value for name, value in architecture.as_dict.items() if name.endswith(".kind"))


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
    chosen = _next_to_screen(job, scores, job.tables, is_last=False)
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
    chosen, others = _next_to_screen(job, scores, job.tables, is_last=False), list(scores)
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
    assert _diverse(space, ordered, 2) == [twins[0], other]
    assert _diverse(space, ordered, 3) == ordered, "in their order"
    assert _diverse(space, ordered, 9) == ordered
    assert _diverse(space, twins, 2) == twins, "better a twin than none"


def scaled(table: LatencyTable, factor: float, precision: str = "fp32") -> LatencyTable:
    entries = {
        key.replace("/fp32/", f"/{precision}/"): replace(entry, mean_ms=factor * entry.mean_ms)
        for key, entry in table.entries.items()
    }
    return replace(table, entries=entries, precision=precision)


@pytest.fixture
def searched(make_job: Callable[..., Job], table: LatencyTable) -> Job:
    """As after a search, with a table of int8 that promises the half of what fp32 takes."""
    job = make_job(latency_ms=1.0)
    job.tables = {t.form: t for t in (table, scaled(table, 0.5, "int8"))}
    assert list(job.tables) == ["onnxruntime", "onnxruntime-int8"]
    job.plan = make_plan(60.0, 1.0, False, 1.0)
    job.store.finish_stage("train", 1.0, {"epochs": 2 * RANKED_EPOCHS})
    for rank, architecture in enumerate(members(job.space, 30)):
        confusion = np.diag([100 - rank] + [100] * 9) + np.diag([rank], k=0)[0, 0] * np.eye(10, k=1, dtype=int)
        job.store.add_evaluation(Evaluation(architecture, "supernet", "val", confusion, 0.1))
    return job


def test_candidates_are_measured_in_int8_where_that_is_predicted_to_be_faster(searched: Job) -> None:
    """Real files on a real runtime; fp32 forms of entrants are measured too where they may meet the limit."""
    chosen = entrants(searched)
    by_precision: dict[str, set[str]] = {"fp32": set(), "int8": set()}
    for key, payload in searched.store.measurements("cpu", "onnxruntime"):
        by_precision[payload["precision"]].add(key)
    ids = {a.id for a in chosen}
    assert ids <= by_precision["int8"] and ids <= by_precision["fp32"]
    assert needing_int8(searched) < ids, "these networks take a few hundredths of a ms in either precision"
    kept = searched.store.setting("predictions")
    assert all(kept[key]["precision"] == "int8" for key in ids)
    assert all(kept[f"{key} onnxruntime"]["precision"] == "fp32" for key in ids)
    assert searched.tables["onnxruntime-int8"].observations and searched.tables["onnxruntime"].observations
    assert entrants(searched) == chosen, "read from the journal"
    searched.close_devices()


@pytest.mark.slow
def test_one_that_needs_no_int8_goes_on_where_all_others_may_need_it(searched: Job, table: LatencyTable) -> None:
    """As a table has it that takes every network in fp32 for too slow; the measurement knows better."""
    quickest_ms = min(table.predict(searched.space.layers(a)).mean_ms for a in members(searched.space, 30))
    level = searched.settings.latency_ms / quickest_ms
    tables = (scaled(table, 1.2 * level), scaled(table, 0.1 * level, "int8"))
    searched.tables = {t.form: t for t in tables}
    chosen, risky = entrants(searched), needing_int8(searched)
    assert {a.id for a in chosen[:-1]} == risky and chosen[-1].id not in risky
    searched.close_devices()


@pytest.mark.slow
def test_without_tables_of_int8_nothing_needs_it(searched: Job) -> None:
    del searched.tables["onnxruntime-int8"]
    assert entrants(searched) and needing_int8(searched) == set()
    searched.close_devices()
