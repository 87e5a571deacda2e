from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

import hwautoml.core.plugins
from hwautoml.core.plugins import Plugins
from hwautoml.errors import MissingDependencyError, UnknownNameError
from hwautoml.tasks import TASKS, load_task
from hwautoml.tasks.classification import Classification


def test_the_built_in_task() -> None:
    assert load_task("classification") is Classification and TASKS.origin("classification") == "hwautoml"


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown task 'clasification'; known: classification"):
        load_task("clasification")


@pytest.mark.parametrize("value", ["hwautoml.core.task:Metric", "hwautoml.tasks.classification:Classification"])
def test_what_is_no_task_of_that_name_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [EntryPoint("other", value, "hwautoml.tasks")]
    monkeypatch.setattr(hwautoml.core.plugins, "entry_points", lambda group: found)
    monkeypatch.setattr("hwautoml.tasks.TASKS", Plugins("task", "hwautoml.tasks", TASKS.built_in))
    with pytest.raises(MissingDependencyError, match="task 'other' of package 'hwautoml' is no class of"):
        load_task("other")
