"""Finding objectives by name, and the arrays that a search gets of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwautoml.core.measurement import Measurement
from hwautoml.core.objective import Limit, Objective
from hwautoml.errors import InvalidValueError, UnknownNameError
from hwautoml.objectives import OBJECTIVES, known_values, load_objective, load_objectives, scored_values
from hwautoml.objectives.base import Definition, exact
from hwautoml.spaces.mobile import MobileSpace
from hwautoml.testing.searchers import SyntheticOutcome, SyntheticRun
from tests.entry_points import install

SPACE = MobileSpace(32, 3, 10)
MACS = Objective("macs", "", "minimize", "known")


def limits(*texts: str) -> list[Limit]:
    return [Limit.parse(text) for text in texts]


def test_an_unknown_objective_is_refused_and_the_known_ones_are_listed() -> None:
    with pytest.raises(UnknownNameError, match="unknown objective 'parametres'; known: parameters, "):
        load_objective("parametres")


def test_limits_add_their_objectives_after_those_that_are_named() -> None:
    found = load_objectives(["accuracy", "macs"], limits("parameters<=9", "macs<=7"))
    assert [(d.objective.name, d.objective.limit) for d in found] == [
        ("accuracy", None),
        ("macs", 7.0),
        ("parameters", 9.0),
    ]
    assert load_objective("macs").objective.limit is None


def test_the_same_limit_twice_is_one_and_different_ones_are_refused() -> None:
    assert load_objectives([], limits("macs<=7", "macs<=7"))[0].objective.limit == 7.0
    with pytest.raises(InvalidValueError, match="macs has two limits, macs<=7 and macs<=8"):
        load_objectives([], limits("macs<=7", "macs<=8"))
    with pytest.raises(InvalidValueError, match="fix: accuracy>=0.5"):
        load_objectives([], limits("accuracy<=0.5"))


def test_known_values_are_columns_and_scored_ones_are_left_open() -> None:
    run = SyntheticRun(space=SPACE)
    definitions = load_objectives(["accuracy", "latency_ms", "parameters"])
    encodings = np.random.default_rng(0).integers(0, SPACE.num_options, (9, len(SPACE.choices)))
    values, deviations = known_values(definitions, SPACE, run.latencies)(encodings)
    assert values.shape == deviations.shape == (9, 3) and np.isnan(values[:, 0]).all()
    np.testing.assert_array_equal((values[:, 1], deviations[:, 1]), run.latencies(encodings))
    assert values[:, 2].tolist() == [SPACE.total_cost(SPACE.decode(row)).parameters for row in encodings]
    assert not deviations[:, 2].any()
    np.testing.assert_equal(scored_values(definitions)(SyntheticOutcome(0.7, 0.2)), [0.7, np.nan, np.nan])


def test_without_a_target_only_latency_is_missing() -> None:
    encodings = np.zeros((1, len(SPACE.choices)), dtype=np.int64)
    assert known_values(load_objectives(["macs"]), SPACE)(encodings)[0][0, 0] > 0
    with pytest.raises(InvalidValueError, match="latency table"):
        known_values(load_objectives(["latency_ms"]), SPACE)(encodings)


def test_a_measured_latency_is_its_median() -> None:
    measured = load_objective("latency_ms").measured
    assert measured is not None and measured(Measurement((1.0, 2.0, 9.0))) == 2.0


@pytest.mark.parametrize(
    ("source", "functions", "message"),
    [
        ("known", {}, "is known, so it is defined by known, got no function"),
        ("measured", {"known"}, "defined by known and measured, got known"),
        ("scored", {"known", "scored"}, "defined by scored, got known and scored"),
    ],
)
def test_a_definition_has_what_its_source_asks_for(source, functions, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        Definition(replace(MACS, source=source), **dict.fromkeys(functions, lambda _: None))


@pytest.mark.parametrize("values", [np.zeros(3), np.zeros((2, 1)), np.zeros(())])
def test_known_values_of_another_shape_are_refused(values: np.ndarray) -> None:
    wrong = Definition(MACS, known=lambda networks: (values, np.zeros(2)))
    with pytest.raises(InvalidValueError, match=r"'macs': known\(\) of 2 networks must return two arrays \(2,\)"):
        known_values([wrong], SPACE)(np.zeros((2, len(SPACE.choices)), dtype=np.int64))


SOURCE = """
from hwautoml.core.objective import Objective
from hwautoml.objectives.base import Definition, exact
DEPTHWISE = Definition(
    Objective("depthwise_macs", "", "minimize", "known"), known=lambda networks: exact(networks.costs.depthwise_macs)
)
"""


def test_an_objective_of_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    entries = "depthwise_macs = more_objectives:DEPTHWISE\nother = more_objectives:DEPTHWISE"
    install(tmp_path, "more_objectives", OBJECTIVES.group, entries, SOURCE)
    monkeypatch.setattr("hwautoml.objectives.OBJECTIVES", replace(OBJECTIVES))  # found anew
    (found,) = load_objectives([], limits("depthwise_macs<=3"))
    assert found.objective.limit == 3.0
    with pytest.raises(InvalidValueError, match="'other' of package 'more_objectives' must be a Definition"):
        load_objective("other")


def test_exact_values_have_no_deviation() -> None:
    values, deviations = exact(np.arange(3.0))
    assert values.tolist() == [0, 1, 2] and deviations.tolist() == [0, 0, 0]
