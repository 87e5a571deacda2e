from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.plan import RANKED_EPOCHS, make_plan
from hwautoml.core.space import Architecture
from hwautoml.core.training_cost import TrainingCost
from hwautoml.pipeline.runs.context import RunContext
from hwautoml.pipeline.runs.outcomes import Trained
from hwautoml.pipeline.runs.resources import LOWEST_UTILISATION, Resources
from hwautoml.pipeline.runs.trust import promise, trust_of
from hwautoml.pipeline.stages.profiling import kept_tables
from hwautoml.pipeline.stages.screening import HEADROOM, _Screening, diverse, entrants
from hwautoml.spaces.mobile import MobileSpace
from hwautoml.store.run_store import Evaluation

MakeRun = Callable[..., RunContext]
Limited = tuple[RunContext, Resources]
PLAN = make_plan(60.0, 1.0, False, 1.0)


def next_to_screen(run: RunContext, resources: Resources, scores: dict[Architecture, float]) -> list[Architecture]:
    return _Screening(run, resources, PLAN).next_to_screen(scores, resources.tables, is_last=False)


def members(space: MobileSpace, number: int) -> list[Architecture]:
    return [space.sample(np.random.default_rng(seed)) for seed in range(number)]


def kinds(architecture: Architecture) -> tuple[object, ...]:
    return tuple(value for name, value in architecture.as_dict.items() if name.endswith(".kind"))


def predicted_ms(table: LatencyTable, space: MobileSpace, architectures: list[Architecture]) -> list[float]:
    return [table.predict(space.layers(a)).mean_ms for a in architectures]


@pytest.fixture
def scores(table: LatencyTable, space: MobileSpace) -> dict[Architecture, float]:
    """The smaller, the better the score: as a supernet sees it that has hardly been trained."""
    architectures = members(space, 60)
    order = np.argsort(predicted_ms(table, space, architectures))
    return {architectures[i]: 1 - 0.01 * rank for rank, i in enumerate(order)}


@pytest.fixture
def limited(make_run: MakeRun, resources: Resources, table: LatencyTable, space: MobileSpace) -> Limited:
    """A limit that half of the members meet."""
    limit_ms = float(np.median(predicted_ms(table, space, members(space, 60)))) / HEADROOM
    return make_run(latency_ms=limit_ms), replace(resources, limit_ms=limit_ms)


@pytest.mark.parametrize("epochs", [0.0, RANKED_EPOCHS / 2, 2 * RANKED_EPOCHS])
def test_scores_choose_the_size_only_after_enough_epochs(
    limited: Limited, scores: dict[Architecture, float], epochs: float
) -> None:
    run, resources = limited
    run.journal.finish(Trained(epochs=epochs), 1.0)
    chosen = next_to_screen(run, resources, scores)
    used = resources.utilisation(chosen)
    assert used.max() <= HEADROOM + 1e-9 and len(chosen) == 8
    assert used.min() >= LOWEST_UTILISATION * (1 - trust_of(run))
    smallest = resources.utilisation(list(scores)).min()
    if epochs == 0.0:
        assert used.min() > smallest
    if epochs > RANKED_EPOCHS:
        assert used.min() == smallest, "its score is the best"


def test_when_none_can_be_trained_in_time_the_nearest_are_tried(
    limited: Limited, scores: dict[Architecture, float], table: LatencyTable
) -> None:
    run, resources = limited
    run.journal.finish(Trained(epochs=0.1), 1.0)
    cost = TrainingCost(1e-10, 1e-9, 1e-6, 0.1)
    resources = replace(resources, training_cost=cost, affordable_sec_per_image=1e-12)
    chosen, others = next_to_screen(run, resources, scores), list(scores)
    used = dict(zip(others, resources.utilisation(others), strict=True))
    predicted = zip(others, predicted_ms(table, run.space, others), strict=True)
    within = [a for a, ms in predicted if ms <= HEADROOM * run.limit_ms]
    assert [used[a] for a in chosen] == sorted(used[a] for a in within)[:8]


def test_capacity_stands_in_for_scores_that_cannot_be_trusted(make_run: MakeRun, space: MobileSpace) -> None:
    run, architectures = make_run(), members(space, 20)
    capacity = np.array([space.total_cost(a).macs * space.total_cost(a).parameters for a in architectures])
    scores = np.random.default_rng(0).random(20)

    def order() -> list[int]:
        return np.argsort(promise(space, scores, architectures, trust_of(run))).tolist()

    assert order() == np.argsort(capacity).tolist(), "nothing trained yet"
    run.journal.finish(Trained(epochs=2 * RANKED_EPOCHS), 1.0)
    assert order() == np.argsort(scores).tolist()


def test_entrants_differ_in_their_kinds_of_blocks_where_they_can(space: MobileSpace) -> None:
    twins = [space.architecture({**space.largest().as_dict, "resolution": side}) for side in (6, 8)]
    other = space.architecture({**space.largest().as_dict, "stage0.kind": "mbconv"})
    assert kinds(twins[0]) == kinds(twins[1]) != kinds(other)
    ordered = [*twins, other]
    assert diverse(space, ordered, 2) == [twins[0], other]
    assert diverse(space, ordered, 3) == ordered, "in their order"
    assert diverse(space, ordered, 9) == ordered
    assert diverse(space, twins, 2) == twins, "better a twin than none"


def scaled(table: LatencyTable, factor: float, precision: str = "fp32") -> LatencyTable:
    entries = {
        key.replace("/fp32/", f"/{precision}/"): replace(entry, mean_ms=factor * entry.mean_ms)
        for key, entry in table.entries.items()
    }
    return replace(table, identity=replace(table.identity, precision=precision), entries=entries)


@pytest.fixture
def searched(make_run: MakeRun) -> RunContext:
    run = make_run(latency_ms=1.0)
    run.journal.finish(Trained(epochs=2 * RANKED_EPOCHS), 1.0)
    for rank, architecture in enumerate(members(run.space, 30)):
        confusion = np.diag([100 - rank] + [100] * 9) + np.diag([rank], k=0)[0, 0] * np.eye(10, k=1, dtype=int)
        run.journal.add_evaluation(Evaluation(architecture, "supernet", "val", confusion, 0.1))
    return run


@pytest.fixture
def with_int8(resources: Resources, table: LatencyTable) -> Resources:
    """With a table of int8 that promises the half of what fp32 takes."""
    tables = {t.form: t for t in (table, scaled(table, 0.5, "int8"))}
    assert list(tables) == ["onnxruntime", "onnxruntime-int8"]
    return replace(resources, tables=tables)


def test_candidates_are_measured_in_int8_where_that_is_predicted_to_be_faster(
    searched: RunContext, with_int8: Resources
) -> None:
    """Real files on a real runtime; fp32 forms of entrants are measured too where they may meet the limit."""
    chosen = entrants(searched, with_int8, PLAN)
    by_precision: dict[str, set[str]] = {"fp32": set(), "int8": set()}
    for key, payload in searched.journal.store.measurements("cpu", "onnxruntime"):
        by_precision[payload["precision"]].add(key)
    ids = {a.id for a in chosen}
    assert ids <= by_precision["int8"] and ids <= by_precision["fp32"]
    assert searched.journal.needing_int8 < ids, "these networks take a few hundredths of a ms in either precision"
    kept = searched.journal.store.setting("predictions")
    assert all(kept[key]["precision"] == "int8" for key in ids)
    assert all(kept[f"{key} onnxruntime"]["precision"] == "fp32" for key in ids)
    improved = kept_tables(searched)
    assert improved["onnxruntime-int8"].observations and improved["onnxruntime"].observations
    assert entrants(searched, with_int8, PLAN) == chosen, "read from the journal"


@pytest.mark.slow
def test_one_that_needs_no_int8_goes_on_where_all_others_may_need_it(
    searched: RunContext, resources: Resources, table: LatencyTable, space: MobileSpace
) -> None:
    """As a table has it that takes every network in fp32 for too slow; the measurement knows better."""
    level = searched.limit_ms / min(predicted_ms(table, space, members(space, 30)))
    tables = (scaled(table, 1.2 * level), scaled(table, 0.1 * level, "int8"))
    chosen = entrants(searched, replace(resources, tables={t.form: t for t in tables}), PLAN)
    risky = searched.journal.needing_int8
    assert {a.id for a in chosen[:-1]} == risky and chosen[-1].id not in risky


@pytest.mark.slow
def test_without_tables_of_int8_nothing_needs_it(searched: RunContext, resources: Resources) -> None:
    assert entrants(searched, resources, PLAN) and searched.journal.needing_int8 == set()
