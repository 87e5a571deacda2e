from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwautoml.core.form import Form
from hwautoml.core.measurement import Measurement
from hwautoml.core.plan import make_plan
from hwautoml.core.run_result import Prediction
from hwautoml.core.training_cost import TrainingCost
from hwautoml.errors import InvalidValueError
from hwautoml.pipeline.runs.context import RunContext
from hwautoml.pipeline.runs.journal import FINE_TUNED, RANDOM, Journal
from hwautoml.pipeline.runs.outcomes import (
    Checked,
    Compiled,
    CompiledNetwork,
    FileParity,
    Loaded,
    Measured,
    Profiled,
    Quantized,
    QuantizedNetwork,
    Searched,
    Specialised,
    Trained,
)
from hwautoml.spaces.mobile import MobileSpace
from hwautoml.store.run_store import Evaluation, RunStore

MEASURED = Measurement((1.0, 2.0, 3.0), {"cpu": "x"}, True, (1.5,))
OUTCOMES = [
    Loaded({"train": 3}, 1),
    Profiled("tvm", "measured", 9),
    Trained(100, 7, 1.5),
    Searched(12),
    Specialised(("a", "b"), ("a", "b", "c"), "a"),
    Compiled({"a": CompiledNetwork(3, 1, ("f",), 1.0, 2.0)}, {"b": "too large"}),
    Measured({"a tvm": "died"}),
    Quantized({"a": QuantizedNetwork(0.9, 0.91, 50, ("Conv_1",), 9, None, {"tvm": MEASURED}, {"tvm": MEASURED})}),
    Checked(0.9, {"confusion": [[4, 1], [0, 5]]}, ((0, (0.25, 0.75)),), {"tvm": FileParity(1e-6, 1.0, 10)}),
    Checked(
        0.9, {"confusion": [[4, 1], [0, 5]]}, (), {"onnxruntime": FileParity(1e-6, 1.0, 10)}, {"tvm": {"max_abs": 0.1}}
    ),
]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(RunStore(tmp_path / "run", create=True)) as opened:
        yield opened


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: type(outcome).__name__)
def test_what_a_stage_left_is_found_again(journal: Journal, outcome: Trained) -> None:
    assert journal.outcome(type(outcome)) is None and journal.seconds(outcome.stage) == 0
    journal.finish(outcome, 2.5)
    assert journal.outcome(type(outcome)) == outcome and journal.seconds(outcome.stage) == 2.5
    journal.forget(type(outcome))
    assert journal.outcome(type(outcome)) is None


def test_a_damaged_outcome_is_named(journal: Journal) -> None:
    journal.store.finish_stage("train", 1.0, {"epochs": "many"})
    with pytest.raises(InvalidValueError, match=r"journal, stage 'train': .*epochs"):
        journal.outcome(Trained)


def test_what_was_decided_is_kept_over_sessions(tmp_path: Path) -> None:
    space, plan, cost = MobileSpace(8, 1, 10), make_plan(60.0, 1.0, True, 1.0), TrainingCost(1e-10, 1e-9, 1e-6, 0.1)
    entrants = [space.smallest(), space.largest()]
    with Journal(RunStore(tmp_path / "run", create=True)) as journal:
        assert journal.plan is None and journal.training_cost is None and journal.entrants(space) is None
        assert journal.leader_keeps_accuracy is None and journal.nearest is None and not journal.needing_int8
        journal.set_plan(plan)
        journal.set_training_cost(cost)
        journal.set_entrants(entrants)
        journal.set_needing_int8(["a"])
        journal.set_leader_keeps_accuracy(False)
        journal.set_nearest(entrants[0])
        assert (journal.left_sec("first", 30.0), journal.place("here")) == (30.0, "here")
    with Journal(RunStore(tmp_path / "run")) as journal:
        assert (journal.plan, journal.training_cost, journal.entrants(space)) == (plan, cost, entrants)
        assert (journal.leader_keeps_accuracy, journal.nearest, journal.needing_int8) == (False, entrants[0].id, {"a"})
        assert (journal.left_sec("first", 1.0), journal.place("there")) == (30.0, "here"), "as they were first"


def test_the_first_prediction_counts_and_that_of_the_form_where_there_is_one(journal: Journal) -> None:
    architecture = MobileSpace(8, 1, 10).smallest()
    first = Prediction("tvm", 1.0, (0.9, 1.1), "int8")
    later = [Prediction("tvm", 2.0, (1.9, 2.1), "int8"), Prediction("tvm", 3.0, (2.9, 3.1))]
    for prediction in (first, *later):
        journal.keep_predictions({architecture: prediction})
    assert journal.prediction(architecture, Form("tvm", "int8")) == first
    assert journal.prediction(architecture, Form("tvm")) == later[1]
    assert journal.prediction(architecture, Form("onnxruntime")) == first, "of the form in which it was chosen"


def test_a_look_at_the_test_split_from_before_there_were_tasks_is_understood() -> None:
    old = {"confusion": [[4, 1], [0, 5]], "accuracy_test": 0.9, "samples": [], "seconds": 1.0}
    old["onnxruntime"] = {"max_abs": 1e-6, "top1_agreement": 1.0, "images": 10}
    found = Checked.from_json(old)
    assert found == Checked(0.9, {"confusion": [[4, 1], [0, 5]]}, (), {"onnxruntime": FileParity(1e-6, 1.0, 10)})
    assert Checked.from_json(found.to_json()) == found


@given(st.lists(st.sampled_from([(w, p) for w in (FINE_TUNED, RANDOM) for p in ("fp32", "int8")]), max_size=6))
def test_measurements_are_told_apart_and_the_latest_counts(
    tmp_path_factory: pytest.TempPathFactory, made: list[tuple[str, str]]
) -> None:
    with Journal(RunStore(tmp_path_factory.mktemp("run"), create=True)) as journal:
        for number, (weights, precision) in enumerate(made, start=1):
            found = Measurement((float(number),))
            journal.add_measurement("a", "cpu", Form("tvm", precision), found, weights=weights)
        for weights, precision in set(made):
            latest = max(i for i, kind in enumerate(made, start=1) if kind == (weights, precision))
            expected = {"a": Measurement((float(latest),))}
            assert journal.measurements("cpu", Form("tvm", precision), weights=weights) == expected
        assert journal.measurements("cpu", Form("onnxruntime"), weights=RANDOM) == {}


def test_the_rounds_of_a_network_add_up(make_run: Callable[..., RunContext], space: MobileSpace) -> None:
    journal, architecture = make_run().journal, space.smallest()
    for phase, accuracy in (("first", 0.5), ("second", 1.0)):
        assert not journal.is_fine_tuned(architecture, phase)
        right = round(10 * accuracy)
        confusion = np.array([[right, 10 - right], [0, 0]])
        journal.add_evaluation(Evaluation(architecture, f"{FINE_TUNED}.{phase}", "val", confusion, 1.0))
        journal.finish_fine_tuning(architecture, phase, 2.0, 100)
        assert journal.is_fine_tuned(architecture, phase)
    training = journal.fine_tuning(architecture, images_per_epoch=50)
    assert (training.seconds, training.images, training.epochs) == (4.0, 200.0, 4.0)
    last = journal.fine_tuned_scores(space)[architecture.id].outcome
    assert last.tolist() == [[10, 0], [0, 0]], "the last round counts"
