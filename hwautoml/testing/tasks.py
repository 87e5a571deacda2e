"""Tests that every task has to pass. Subclass, give it a task and examples, and let pytest collect the class::

    from hwautoml.testing.tasks import TaskSuite
    from my_package import Tags

    class TestTags(TaskSuite):
        task_class = Tags
        given = numpy.array(...)            # labels as a data set brings them, of 24 images or more

        def perfect_outputs(self, task, labels):
            return labels.astype("float32")

The class is checked on those labels: what it makes of them, how it trains, and that its outcomes, metrics, decisions
and texts fit together. Needs pytest, numpy and torch.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np

from hwautoml.core.parity import check_parity, require_parity
from hwautoml.core.task import (
    ANSWER_KINDS,
    Figure,
    Labels,
    Outputs,
    Task,
    outcome_from_bytes,
    outcome_to_bytes,
)
from hwautoml.errors import DatasetError, ParityError
from hwautoml.testing._pytest import pytest

MIN_IMAGES = 24
NUM_FEATURES = 16


class TaskSuite:
    """``given`` are labels as a data set brings them: (num_images, ...), 24 or more, of every kind there is."""

    task_class: ClassVar[type[Task]]
    given: ClassVar[Labels]
    #: Labels that the task must refuse: each one an array.
    refused: ClassVar[tuple[Labels, ...]] = (np.zeros(0, np.int64),)

    @abstractmethod
    def perfect_outputs(self, task: Task, labels: Labels) -> Outputs:
        """(num_images, num_outputs) float32: what a network that is always right and sure gives."""
        raise NotImplementedError

    @pytest.fixture
    def made(self) -> tuple[Task, Labels]:
        return self.task_class.from_labels(self.given, "the given labels")

    @pytest.fixture
    def task(self, made: tuple[Task, Labels]) -> Task:
        return made[0]

    @pytest.fixture
    def labels(self, made: tuple[Task, Labels]) -> Labels:
        return made[1]

    @pytest.fixture
    def perfect(self, task: Task, labels: Labels) -> Outputs:
        return self.perfect_outputs(task, labels)

    # Labels

    def test_there_are_enough_examples(self, labels: Labels, perfect: Outputs) -> None:
        assert len(labels) == len(self.given) == len(perfect) >= MIN_IMAGES

    def test_labels_are_one_row_per_image_in_a_type_that_torch_knows(self, labels: Labels) -> None:
        import torch

        assert labels.dtype in (np.dtype(np.int64), np.dtype(np.float32))
        assert len(torch.from_numpy(labels)) == len(labels)

    def test_the_same_labels_give_the_same_task(self, task: Task, labels: Labels) -> None:
        again, others = self.task_class.from_labels(self.given, "elsewhere")
        assert again == task and np.array_equal(others, labels)

    def test_wrong_labels_are_refused_and_named(self) -> None:
        for wrong in self.refused:
            with pytest.raises(DatasetError, match="the wrong labels"):
                self.task_class.from_labels(wrong, "the wrong labels")

    def test_strata_number_every_image(self, task: Task, labels: Labels) -> None:
        groups, names = task.strata(labels)
        assert groups.shape == (len(labels),) and groups.dtype == np.int64
        assert groups.min() >= 0 and groups.max() < len(names) and len(set(names)) == len(names)

    def test_labels_are_shown_as_text(self, task: Task, labels: Labels) -> None:
        assert all(isinstance(task.label_text(label), str) and task.label_text(label) for label in labels[:MIN_IMAGES])
        assert (
            task.summary and task.num_outputs == len(task.outputs) >= 1 and len(set(task.outputs)) == task.num_outputs
        )

    # Training

    @pytest.mark.parametrize("kind", ["labels", "teacher"])
    def test_the_loss_is_a_finite_scalar_with_a_gradient(self, kind: str, task: Task, labels: Labels) -> None:
        import torch

        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(len(labels), task.num_outputs, generator=generator).requires_grad_()
        teacher = torch.randn(len(labels), task.num_outputs, generator=generator)
        targets = torch.from_numpy(labels)
        loss = task.loss(logits, targets) if kind == "labels" else task.distillation_loss(logits, teacher)
        assert loss.shape == () and bool(torch.isfinite(loss))
        loss.backward()
        assert logits.grad is not None and bool(torch.isfinite(logits.grad).all()) and bool((logits.grad != 0).any())

    def test_a_network_that_may_learn_by_heart_gets_better(self, task: Task, labels: Labels) -> None:
        import torch

        torch.manual_seed(0)
        features, targets = torch.randn(len(labels), NUM_FEATURES), torch.from_numpy(labels)
        network = torch.nn.Sequential(
            torch.nn.Linear(NUM_FEATURES, 64), torch.nn.ReLU(), torch.nn.Linear(64, task.num_outputs)
        )
        optimizer, losses, scores = torch.optim.Adam(network.parameters(), 0.01), [], []
        for _ in range(200):
            logits = network(features)
            loss = task.loss(logits, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            scores.append(task.score(task.outcome(task.activate(logits).detach().numpy(), labels)))
        assert losses[-1] < losses[0], "the loss does not fall"
        assert scores[-1] > scores[0] or scores[0] == task.primary.best, "the primary metric does not rise with it"

    def test_distillation_is_least_where_teacher_and_student_agree(self, task: Task) -> None:
        import torch

        teacher = torch.randn(MIN_IMAGES, task.num_outputs, generator=torch.Generator().manual_seed(0))
        same, other = task.distillation_loss(teacher, teacher), task.distillation_loss(-teacher, teacher)
        assert float(same) < float(other)

    def test_the_end_of_the_graph_can_be_traced_and_keeps_the_shape(self, task: Task) -> None:
        import torch

        class End(torch.nn.Module):
            def forward(self, logits: Any) -> Any:
                return task.activate(logits)

        logits = 3 * torch.randn(1, task.num_outputs, generator=torch.Generator().manual_seed(0))
        traced = torch.export.export(End(), (logits,)).module()(logits)
        assert traced.shape == logits.shape and traced.dtype == torch.float32
        torch.testing.assert_close(traced, task.activate(logits))
        if task.answer.kind != "values":
            assert float(traced.min()) >= 0 and float(traced.max()) <= 1

    # Outcomes and metrics

    def test_outcomes_of_parts_add_up(self, task: Task, labels: Labels, perfect: Outputs) -> None:
        outputs = _mixed(perfect)
        whole = task.outcome(outputs, labels)
        for cuts in ([7], [1, 9, 15]):
            parts = zip(np.split(outputs, cuts), np.split(labels, cuts), strict=True)
            merged = task.merge([task.outcome(o, y) for o, y in parts])
            assert task.metrics(merged) == pytest.approx(task.metrics(whole))

    def test_an_outcome_does_not_depend_on_the_order_of_images(
        self, task: Task, labels: Labels, perfect: Outputs
    ) -> None:
        outputs, order = _mixed(perfect), np.random.default_rng(0).permutation(len(labels))
        first, second = task.outcome(outputs, labels), task.outcome(outputs[order], labels[order])
        assert task.metrics(first) == pytest.approx(task.metrics(second))

    def test_an_outcome_survives_bytes_and_json(self, task: Task, labels: Labels, perfect: Outputs) -> None:
        outcome = np.asarray(task.outcome(_mixed(perfect), labels))
        stored = outcome_from_bytes(outcome_to_bytes(outcome))
        assert stored.dtype == outcome.dtype and np.array_equal(stored, outcome)
        text = json.dumps(task.outcome_to_json(outcome), allow_nan=False)
        assert task.metrics(task.outcome_from_json(json.loads(text))) == task.metrics(outcome)

    def test_metrics_are_known_and_within_their_range(self, task: Task, labels: Labels, perfect: Outputs) -> None:
        known = {metric.name: metric for metric in task.known_metrics}
        assert len(known) == len(task.known_metrics)
        for outputs in (perfect, perfect[::-1], _mixed(perfect)):
            found = task.metrics(task.outcome(outputs, labels))
            assert task.primary.name in found and found.keys() <= known.keys()
            for name, value in found.items():
                assert isinstance(value, float) and np.isfinite(value)
                assert known[name].lowest - 1e-9 <= value <= known[name].highest + 1e-9, name

    def test_metrics_are_best_for_perfect_outputs(self, task: Task, labels: Labels, perfect: Outputs) -> None:
        found = task.metrics(task.outcome(perfect, labels))
        assert found.keys() == {metric.name for metric in task.known_metrics}, "the examples leave one unsaid"
        assert found == pytest.approx({metric.name: metric.best for metric in task.known_metrics}, abs=1e-6)

    def test_the_primary_metric_ranks(self, task: Task, labels: Labels, perfect: Outputs) -> None:
        assert task.primary.direction == "maximize" and task.primary.highest == 1.0
        scores = [task.score(task.outcome(outputs, labels)) for outputs in (perfect, _mixed(perfect), perfect[::-1])]
        assert scores[0] == pytest.approx(1.0) and scores[0] > scores[1] > scores[2]

    def test_the_interval_holds_the_figure(self, task: Task, labels: Labels, perfect: Outputs) -> None:
        outcome = task.outcome(_mixed(perfect), labels)
        interval = task.interval(outcome)
        assert interval is None or interval[0] <= task.score(outcome) <= interval[1]

    # Decisions

    def test_outputs_agree_with_themselves_and_not_with_others(self, task: Task, perfect: Outputs) -> None:
        assert len(task.decide(perfect)) == len(perfect)
        agrees = task.agrees(perfect, perfect)
        assert agrees.shape == (len(perfect),) and agrees.dtype == np.bool_ and agrees.all()
        assert not task.agrees(perfect, perfect[::-1]).all()

    def test_parity_accepts_equal_outputs_and_refuses_different_ones(self, task: Task, perfect: Outputs) -> None:
        nearly = perfect + np.float32(1e-6 * task.output_scale)
        for outputs in (perfect, nearly):
            require_parity(check_parity(perfect, outputs, task=task, tolerance=1e-4), artifact="the same")
        broken = perfect.copy()
        broken[0, 0] = np.nan
        for outputs in (perfect[::-1], broken):
            with pytest.raises(ParityError, match="another does not compute"):
                require_parity(check_parity(perfect, outputs, task=task, tolerance=1e-4), artifact="another")

    def test_divergence_is_zero_for_the_same_and_grows(self, task: Task, perfect: Outputs) -> None:
        assert task.divergence(perfect, perfect) == pytest.approx(0.0, abs=1e-9)
        assert 0 < task.divergence(perfect, _mixed(perfect)) < task.divergence(perfect, perfect[::-1])

    # What people are told

    def test_an_answer_fits_the_outputs(self, task: Task) -> None:
        answer = task.answer
        assert answer.kind in ANSWER_KINDS and json.loads(json.dumps(answer.to_json())) == answer.to_json()
        if answer.kind == "above":
            assert len(answer.thresholds) == task.num_outputs and all(0 <= t <= 1 for t in answer.thresholds)

    def test_texts_with_and_without_an_outcome(self, task: Task, labels: Labels, perfect: Outputs) -> None:
        outcome = task.outcome(_mixed(perfect), labels)
        without, card = task.card(None), task.card(outcome)
        assert without.title == card.title and without.purpose == card.purpose and card.output and card.limits
        assert card.result and not without.result
        json.dumps(task.manifest_metrics(outcome), allow_nan=False)
        json.dumps(task.to_json(), allow_nan=False)

    def test_figures_survive_json(self, task: Task, labels: Labels, perfect: Outputs) -> None:
        figures = task.figures(task.outcome(_mixed(perfect), labels))
        assert len({figure.identifier for figure in figures}) == len(figures)
        for figure in figures:
            assert figure.identifier.replace("-", "").isalpha()
            assert Figure.from_json(json.loads(json.dumps(figure.to_json()))) == figure
            assert all(len(row) == len(figure.head) for row in figure.rows)


def _mixed(perfect: Outputs) -> Outputs:
    """Right for most images, another's for every fourth."""
    mixed = perfect.copy()
    mixed[::4] = perfect[::-1][::4]
    return mixed
