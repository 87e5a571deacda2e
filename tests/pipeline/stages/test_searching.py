from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.objective import Limit
from hwautoml.core.plan import RANKED_EPOCHS, make_plan
from hwautoml.datasets import ImageDataset
from hwautoml.errors import InfeasibleLimitError, RunFolderError
from hwautoml.pipeline.runs.context import RunContext
from hwautoml.pipeline.runs.judging import definitions_of
from hwautoml.pipeline.runs.outcomes import Trained
from hwautoml.pipeline.runs.resources import Resources, lowest_utilisation
from hwautoml.pipeline.runs.trust import trust_of
from hwautoml.pipeline.stages.searching import (
    MIN_FOCUSED,
    SharedScorer,
    front_rows,
    require_feasible,
    run_search,
    search_stage,
    shared_evaluator,
)
from hwautoml.pipeline.stages.training import CHECKPOINT, checkpoint, load_supernet
from hwautoml.store.run_store import Evaluation
from hwautoml.supernets.evaluator import recalibration_batches
from hwautoml.supernets.supernet import Supernet
from hwautoml.supernets.training import TrainState


@pytest.fixture
def trained(make_run: Callable[..., RunContext]) -> RunContext:
    """As after the train stage; the weights are random, which the search does not mind."""
    run = make_run()
    torch.manual_seed(0)
    checkpoint(run, run.folder / CHECKPOINT, Supernet(run.space), TrainState(1.0, 8, 1))
    return run


@pytest.fixture
def tables(table: LatencyTable) -> dict[str, LatencyTable]:
    return {"onnxruntime": table}


def evaluations(run: RunContext) -> list[Evaluation]:
    return run.journal.shared_scores(run.space)


def test_evaluations_are_journaled_with_a_confusion_matrix_of_the_validation_split(trained: RunContext) -> None:
    architecture = trained.space.largest()
    accuracy = SharedScorer(trained)(architecture).accuracy
    (stored,) = evaluations(trained)
    assert stored.architecture == architecture and trained.dataset.task.score(stored.outcome) == accuracy
    assert stored.outcome.shape == (10, 10)
    assert stored.outcome.sum(1).tolist() == np.bincount(trained.dataset.val.labels, minlength=10).tolist()


def test_an_evaluation_can_be_repeated(trained: RunContext) -> None:
    """In another order, and by another evaluator: nothing leaks from one score into the next."""
    members = [trained.space.sample(np.random.default_rng(seed)) for seed in range(3)]
    first = [SharedScorer(trained)(a).accuracy for a in members]
    evaluator = SharedScorer(trained)
    assert [evaluator(a).accuracy for a in reversed(members)] == first[::-1]


def test_scores_do_not_depend_on_the_supernets_running_statistics(trained: RunContext) -> None:
    """They fit no member; each is scored with statistics of its own."""
    members = [trained.space.sample(np.random.default_rng(seed)) for seed in range(3)]
    first = [SharedScorer(trained)(a).accuracy for a in members]
    spoiled = load_supernet(trained)
    for norm in (m for m in spoiled.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        torch.nn.init.normal_(norm.running_mean, std=5.0)
        torch.nn.init.uniform_(norm.running_var, 0.01, 100.0)
    checkpoint(trained, trained.folder / CHECKPOINT, spoiled, TrainState(1.0, 8, 1))
    assert [SharedScorer(trained)(a).accuracy for a in members] == first


@pytest.mark.parametrize(("num_images", "sizes"), [(100, [100]), (130, [65, 65]), (300, [100, 100, 100])])
def test_no_batch_of_recalibration_is_a_remainder(digits: ImageDataset, num_images: int, sizes: list[int]) -> None:
    """Each counts alike in the statistics."""
    few = replace(digits, train=replace(digits.train, indices=digits.train.indices[:num_images]))
    assert [len(labels) for _, labels in recalibration_batches(few.train, 8, "cpu")] == sizes


def test_a_search_journals_every_score_and_goes_on_from_the_journal(
    trained: RunContext, tables: dict[str, LatencyTable]
) -> None:
    first = run_search(trained, tables, definitions_of(1.0), max_evaluations=8, budget_sec=120.0)
    assert len(first.evaluated) == 8
    task = trained.dataset.task
    assert {e.architecture: task.score(e.outcome) for e in evaluations(trained)} == first.values_of("accuracy")
    second = run_search(trained, tables, definitions_of(1.0), max_evaluations=3, budget_sec=120.0)
    assert second.num_evaluated == 3 and len(second.evaluated) == 11
    assert second.values_of("accuracy").items() > first.values_of("accuracy").items()


@pytest.mark.parametrize("epochs", [0.5, 2 * RANKED_EPOCHS])
def test_a_supernet_that_cannot_rank_scores_members_that_are_worth_training(
    trained: RunContext, table: LatencyTable, resources: Resources, epochs: float
) -> None:
    plan = replace(make_plan(60.0, 1.0, False, 1.0), search=0.0, max_evaluations=1)
    trained.journal.finish(Trained(epochs=epochs), 1.0)
    middle = table.predict(trained.space.layers(trained.space.sample(np.random.default_rng(0)))).mean_ms
    limited = replace(trained, settings=replace(trained.settings, latency_ms=middle))
    resources = replace(resources, limit_ms=middle)
    search_stage(limited, resources, plan)
    used = resources.utilisation([e.architecture for e in evaluations(trained)])
    wanted = (lowest_utilisation(trust_of(trained)) <= used) & (used <= 1)
    assert (wanted.sum() >= MIN_FOCUSED) == (epochs < RANKED_EPOCHS), "however little time there is"


def test_a_whole_validation_split_is_scored_where_it_says_something(trained: RunContext) -> None:
    assert trust_of(trained) == 0.0
    sizes = []
    for epochs in (0.0, RANKED_EPOCHS):
        trained.journal.forget(Trained)
        trained.journal.finish(Trained(epochs=epochs), 1.0)
        batches = shared_evaluator(trained).validation_batches(8)
        sizes.append(sum(len(labels) for _, labels in batches))
    assert sizes == [min(500, trained.dataset.val.num_images), trained.dataset.val.num_images]


def test_what_is_known_needs_no_weights(trained: RunContext, tables: dict[str, LatencyTable]) -> None:
    run_search(trained, tables, definitions_of(1.0), max_evaluations=7, budget_sec=120.0)
    (trained.folder / CHECKPOINT).unlink()
    again = run_search(trained, tables, definitions_of(0.5), max_evaluations=0, budget_sec=120.0)
    assert len(again.evaluated) == 7 and front_rows(again, tables, "predicted")
    with pytest.raises(RunFolderError, match=r"supernet.safetensors does not exist"):
        run_search(trained, tables, definitions_of(1.0), max_evaluations=1, budget_sec=120.0)


def test_front_rows_say_what_meets_the_limit_and_where_figures_come_from(
    trained: RunContext, tables: dict[str, LatencyTable]
) -> None:
    first = run_search(trained, tables, definitions_of(1.0), max_evaluations=10, budget_sec=120.0)
    means = np.array([row.latency_ms for row in front_rows(first, tables, "estimated")])
    limit_ms = float(np.median(means)) * (1 + 1e-9)
    problem = run_search(trained, tables, definitions_of(limit_ms), max_evaluations=0, budget_sec=120.0)
    rows = front_rows(problem, tables, "estimated")
    assert [row.meets_limit for row in rows] == list(means <= limit_ms)
    for row in rows:
        architecture = trained.space.architecture(row.values)
        assert row.id == architecture.id and row.accuracy_val == problem.values_of("accuracy")[architecture]
        assert row.objectives == {"accuracy": row.accuracy_val, "latency_ms": pytest.approx(row.latency_ms)}
        assert row.latency_origin == "estimated" and row.latency_std_ms > 0
        assert (row.runtime, row.precision) == ("onnxruntime", "fp32")


def test_a_known_objective_is_searched_beside_the_others(trained: RunContext, tables: dict[str, LatencyTable]) -> None:
    space = trained.space
    costs = [space.total_cost(space.sample(np.random.default_rng(seed))) for seed in range(40)]
    limit = float(np.quantile([cost.parameters for cost in costs], 0.2))
    judged = definitions_of(1e3, ["num_kernels"], [Limit("parameters", "<=", limit)])
    require_feasible(trained, tables, judged)
    problem = run_search(trained, tables, judged, max_evaluations=14, budget_sec=120.0)
    within = [a for a in problem.evaluated if space.total_cost(a).parameters <= limit]
    assert len(within) > 7, "a fifth of them would be by chance"
    for row in front_rows(problem, tables, "predicted"):
        cost = space.total_cost(space.architecture(row.values))
        assert (row.objectives["parameters"], row.objectives["num_kernels"]) == (cost.parameters, cost.num_kernels)
        assert row.meets_limit == (cost.parameters <= limit)


def test_members_that_are_worth_training_keep_the_limits(
    trained: RunContext, resources: Resources, table: LatencyTable
) -> None:
    costs = [trained.space.total_cost(trained.space.sample(np.random.default_rng(seed))) for seed in range(40)]
    limit = float(np.quantile([cost.parameters for cost in costs], 0.3))
    limited = replace(trained, settings=replace(trained.settings, latency_ms=1e3, limits=(f"parameters<={limit}",)))
    trained.journal.finish(Trained(epochs=0.5), 1.0)
    search_stage(limited, resources, replace(make_plan(60.0, 1.0, False, 1.0), search=0.0, max_evaluations=1))
    scored = [trained.space.total_cost(e.architecture).parameters for e in evaluations(trained)]
    assert sum(parameters <= limit for parameters in scored) >= MIN_FOCUSED
    assert sum(parameters > limit for parameters in scored) <= 1, "one may be sampled anywhere"


def test_a_limit_out_of_reach_is_refused_before_anything_is_trained(
    trained: RunContext, tables: dict[str, LatencyTable]
) -> None:
    least = trained.space.total_cost(trained.space.smallest()).parameters
    with pytest.raises(InfeasibleLimitError, match=r"meets parameters<=10; the lowest parameters is [\d,]+ \("):
        require_feasible(trained, tables, definitions_of(1e3, (), [Limit("parameters", "<=", 10)]))
    require_feasible(trained, tables, definitions_of(1e3, (), [Limit("parameters", "<=", least)]))
