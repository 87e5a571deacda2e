"""Searches for accuracy within a latency are those of the version that knew no other objectives.

``recorded_searches.json`` holds what it evaluated (40 networks each), its front and its best.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from hwautoml.core.space import Architecture
from hwautoml.searchers import load_searcher
from hwautoml.searchers.problem import front
from hwautoml.testing.searchers import SyntheticOutcome, SyntheticRun

RECORDED = json.loads(Path(__file__).with_name("recorded_searches.json").read_text())


PYMOO = re.search(r"^pymoo==(.+)$", (Path(__file__).parents[2] / "constraints.txt").read_text(), re.MULTILINE)


@pytest.mark.parametrize("key", RECORDED)
def test_two_objectives_are_searched_as_before(key: str) -> None:
    name, seed, limit = key.split("/")
    if name == "nsga2" and (PYMOO is None or version("pymoo") != PYMOO[1]):
        pytest.skip(f"recorded with another pymoo than {version('pymoo')}, which draws otherwise")
    run = SyntheticRun(int(seed))

    def tied(architecture: Architecture) -> SyntheticOutcome:
        """As on a validation set of 50 images: many score alike."""
        outcome = run.evaluate(architecture)
        return replace(outcome, accuracy=round(outcome.accuracy * 50) / 50)

    problem = run.problem(
        limits=[f"latency_ms<={limit}"],
        seed=int(seed),
        max_evaluations=40,
        evaluate=tied if int(seed) else run.evaluate,
    )
    load_searcher(name).search(problem)
    assert " ".join(a.id for a in problem.evaluated) == RECORDED[key]["evaluated"]
    assert " ".join(a.id for a in front(problem)) == RECORDED[key]["front"]
    best = problem.best_feasible()
    assert best is not None and best.id == RECORDED[key]["best"]
