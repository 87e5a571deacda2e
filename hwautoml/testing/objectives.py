"""What every objective must be: subclass ``ObjectiveSuite`` in a test file of your own and name your objective.

    from hwautoml.testing.objectives import ObjectiveSuite

    class TestEnergy(ObjectiveSuite):
        objective = "energy_uj"  # as its entry point is called

One that is scored also says what it is to be scored on: override the fixture ``outcomes``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.measurement import Measurement
from hwautoml.core.networks import Networks
from hwautoml.core.objective import SHARE, Objective
from hwautoml.objectives import load_objective, load_objectives
from hwautoml.objectives.base import Array, Definition
from hwautoml.searchers import load_searcher
from hwautoml.searchers.problem import front
from hwautoml.testing._pytest import pytest
from hwautoml.testing.searchers import SyntheticRun

NUM_NETWORKS = 40


class ObjectiveSuite:
    """``objective`` is the name that ``hwautoml search --objective`` takes."""

    objective: str

    @pytest.fixture
    def definition(self) -> Definition:
        return load_objective(self.objective)

    @pytest.fixture
    def outcomes(self) -> Sequence[Any]:
        """Of evaluations, from the worst to the best."""
        return ()

    @pytest.fixture
    def networks(self) -> Networks:
        run = SyntheticRun()
        encodings = np.random.default_rng(0).integers(0, run.space.num_options, (NUM_NETWORKS, len(run.space.choices)))
        return Networks(encodings, run.costs, run.latencies)

    def test_it_is_called_as_it_is_found_and_has_no_limit_of_its_own(self, definition: Definition) -> None:
        assert definition.objective.name == self.objective and definition.objective.limit is None
        assert Objective.from_json(definition.objective.to_json()) == definition.objective

    def test_known_values_are_finite_one_for_each_network(self, definition: Definition, networks: Networks) -> None:
        for part in (networks, _part(networks, slice(0, 1)), _part(networks, slice(0, 0))):
            values, deviations = _known(definition, part)
            assert values.shape == deviations.shape == (len(part),)
            assert np.isfinite(values).all() and np.isfinite(deviations).all() and (deviations >= 0).all()

    def test_known_values_do_not_depend_on_the_other_networks(self, definition: Definition, networks: Networks) -> None:
        values, _ = _known(definition, networks)
        assert len(set(values.tolist())) > 1, "the same of every network: nothing to choose by"
        alone = [_known(definition, _part(networks, slice(i, i + 1)))[0][0] for i in range(len(networks))]
        np.testing.assert_allclose(alone, values, rtol=1e-9)

    def test_networks_are_not_changed(self, definition: Definition, networks: Networks) -> None:
        before = networks.encodings.copy()
        first = _known(definition, networks)[0].copy()
        np.testing.assert_array_equal(_known(definition, networks)[0], first)
        np.testing.assert_array_equal(networks.encodings, before)

    def test_a_measurement_gives_a_finite_value(self, definition: Definition) -> None:
        if definition.measured is None:
            pytest.skip("not measured")
        for milliseconds in (0.01, 1.0, 1000.0):
            assert math.isfinite(definition.measured(Measurement((milliseconds,) * 9, single_ms=(milliseconds,) * 600)))

    def test_better_outcomes_have_better_values(self, definition: Definition, outcomes: Sequence[Any]) -> None:
        if definition.scored is None:
            pytest.skip("not scored")
        assert len(outcomes) > 1, "override the fixture 'outcomes' with some of what evaluations leave"
        values = [definition.scored(outcome) for outcome in outcomes]
        assert [definition.scored(outcome) for outcome in outcomes] == values, "a pure function"
        assert all(math.isfinite(value) for value in values)
        minimised = [definition.objective.sign * value for value in values]
        assert minimised == sorted(minimised, reverse=True) and minimised[0] > minimised[-1]
        if definition.objective.unit == SHARE:
            assert all(0 <= value <= 1 for value in values)

    def test_a_search_keeps_a_limit_of_it(self, definition: Definition, networks: Networks) -> None:
        """A limit that a third of the networks meet: random sampling within it."""
        values, _ = _known(definition, networks)
        share = 0.33 if definition.objective.direction == "minimize" else 0.67
        limit = definition.objective.limit_at(float(np.quantile(values, share)))
        beside = [] if definition.objective.name == "accuracy" else ["accuracy"]
        others = load_objectives(beside)
        problem = SyntheticRun().problem((*others, definition), [str(limit)], max_evaluations=12)
        load_searcher("random").search(problem)
        assert problem.num_evaluated == 12 and front(problem)
        found = np.array(list(problem.values_of(definition.objective.name).values()))
        assert all(definition.objective.limited(limit).is_met(value * (1 - 1e-9)) for value in found)


def _known(definition: Definition, networks: Networks) -> tuple[Array, Array]:
    if definition.known is None:
        pytest.skip("not known before an evaluation")
    return definition.known(networks)


def _part(networks: Networks, part: slice) -> Networks:
    encodings: NDArray[np.int64] = networks.encodings[part]
    return Networks(encodings, networks.cost_table, networks.latencies)
