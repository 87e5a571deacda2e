from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hwautoml.core.measurement import Measurement
from hwautoml.core.plan import make_plan
from hwautoml.pipeline.runs.candidates import Finalist
from hwautoml.pipeline.runs.context import RunContext
from hwautoml.pipeline.stages.results import warn_of_little_training
from hwautoml.spaces.mobile import MobileSpace


@pytest.mark.parametrize(("seconds", "epochs", "is_warned"), [(3.0, 0.1, True), (3.0, 5.0, False), (40.0, 0.1, False)])
def test_a_run_that_was_killed_again_and_again_says_what_it_ships(
    make_run: Callable[..., RunContext],
    space: MobileSpace,
    caplog: pytest.LogCaptureFixture,
    seconds: float,
    epochs: float,
    is_warned: bool,
) -> None:
    run, plan = make_run(), replace(make_plan(60.0, 1.0, False, 1.0), specialise=40.0)
    winner = Finalist(space.smallest(), 0.5, {"tvm": Path("model.so")}, {"tvm": Measurement((1.0,))})
    run.journal.finish_fine_tuning(winner.architecture, "first", seconds, epochs * run.dataset.train.num_images)
    with caplog.at_level(logging.WARNING):
        warn_of_little_training(run, plan, winner)
    assert ("was trained for 3s of the 40s planned, 0.1 epochs" in caplog.text) == is_warned
