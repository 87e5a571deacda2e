"""What a run's task makes of what the journal kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hwautoml.core.space import Architecture
from hwautoml.core.task import Outcome, Task
from hwautoml.store.run_store import Evaluation


def scores_of(task: Task, evaluations: Iterable[Evaluation]) -> dict[Architecture, float]:
    """The primary metric of each, in their order; what stages call accuracy."""
    return {evaluation.architecture: task.score(evaluation.outcome) for evaluation in evaluations}


def test_outcome(task: Task, checked: Mapping[str, Any]) -> Outcome:
    """Of the test split, from the payload of the stage ``check``.

    Runs of before there were tasks have it among the stage's other facts.
    """
    return task.outcome_from_json(checked.get("outcome", checked))
