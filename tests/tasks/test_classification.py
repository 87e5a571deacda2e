from __future__ import annotations

import numpy as np
import pytest

from hwautoml.core.task import Labels, Outputs, Task
from hwautoml.errors import DatasetError
from hwautoml.tasks.classification import Classification
from hwautoml.testing.tasks import TaskSuite

CONFUSION = np.array([[8, 2, 0], [1, 9, 0], [0, 5, 5]])
TASK = Classification(("bird", "cat", "dog"))


class TestClassification(TaskSuite):
    task_class = Classification
    given = np.array(["cat", "dog", "eel"])[np.random.default_rng(0).permutation(np.arange(30) % 3)]
    refused = (
        np.zeros(0, np.int64),
        np.zeros(30, np.int64),
        np.zeros((30, 2), np.int64),
        np.linspace(0, 1, 30),
        np.arange(30) > 3,
    )

    def perfect_outputs(self, task: Task, labels: Labels) -> Outputs:
        return np.eye(task.num_outputs, dtype=np.float32)[labels]


class TestNumberedClasses(TestClassification):
    given = np.array([-3, 7, 200])[np.arange(30) % 3]


def test_classes_are_sorted_and_labels_index_them() -> None:
    task, labels = Classification.from_labels(np.array([10, 9, 10, 100]), "y")
    assert task.outputs == ("9", "10", "100"), "numbers by value"
    assert labels.tolist() == [1, 0, 1, 2] and task.label_text(labels[3]) == "100"
    assert Classification.from_labels(np.array(["b", "B", "a"]), "y")[0].outputs == ("B", "a", "b")


def test_metrics_by_hand() -> None:
    found = TASK.metrics(CONFUSION)
    assert found["accuracy"] == pytest.approx(22 / 30)
    assert found["balanced_accuracy"] == pytest.approx((0.8 + 0.9 + 0.5) / 3)
    assert found["worst_recall"] == 0.5 == found["recall:dog"]
    assert found["precision:cat"] == pytest.approx(9 / 16)
    assert found["macro_f1"] == pytest.approx(np.mean([16 / 19, 18 / 26, 10 / 15]))


def test_a_class_that_is_never_named_costs_what_it_should() -> None:
    """91 % accuracy, and half of it is luck."""
    found = Classification(("common", "rare")).metrics(np.array([[91, 0], [9, 0]]))
    assert (found["accuracy"], found["balanced_accuracy"], found["worst_recall"]) == (0.91, 0.5, 0.0)
    assert found["macro_f1"] == pytest.approx(91 / 100.0 * 2 / 1.91 / 2) and "precision:rare" not in found


def test_classes_without_images_are_left_out_of_averages() -> None:
    found = TASK.metrics(np.array([[4, 0, 0], [1, 3, 0], [0, 0, 0]]))
    assert found["balanced_accuracy"] == pytest.approx((1.0 + 0.75) / 2) and "recall:dog" not in found


def test_no_images_at_all() -> None:
    nothing = np.zeros((3, 3), np.int64)
    assert TASK.metrics(nothing) == {"accuracy": 0.0} and TASK.interval(nothing) is None
    assert TASK.figures(nothing) == () and TASK.card(nothing).result == ""


def test_what_a_report_shows() -> None:
    (figure,) = TASK.figures(CONFUSION)
    assert figure.identifier == "confusion" and figure.lead.startswith("22 of 30 test images right.")
    assert figure.items == ("dog taken for cat: 5 of 10", "bird taken for cat: 2 of 10", "cat taken for bird: 1 of 10")
    assert TASK.figures(np.eye(3, dtype=int))[0].list_title == "No mistakes."


def test_labels_that_are_no_classes_are_named() -> None:
    with pytest.raises(DatasetError, match=r"y in x.npz is float64; expected integers or texts") as caught:
        Classification.from_labels(np.linspace(0, 1, 5), "y in x.npz")
    assert "--task" in (caught.value.fix or "")
