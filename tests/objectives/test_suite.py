"""Our own objectives pass the suite that ships for those of others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from hwautoml.core.task import Scored
from hwautoml.objectives import OBJECTIVES
from hwautoml.tasks.classification import Classification
from hwautoml.testing.objectives import ObjectiveSuite


class TestAccuracy(ObjectiveSuite):
    objective = "accuracy"

    @pytest.fixture
    def outcomes(self) -> Sequence[Scored]:
        task = Classification(("a", "b"))
        matrices = ([[0, 9], [9, 0]], [[5, 5], [4, 4]], [[9, 1], [0, 8]], [[7, 0], [0, 7]])
        return [Scored(task, np.array(matrix)) for matrix in matrices]


class TestLatency(ObjectiveSuite):
    objective = "latency_ms"


class TestMacs(ObjectiveSuite):
    objective = "macs"


class TestParameters(ObjectiveSuite):
    objective = "parameters"


class TestPeakActivation(ObjectiveSuite):
    objective = "peak_activation_bytes"


class TestKernels(ObjectiveSuite):
    objective = "num_kernels"


def test_every_objective_has_a_suite() -> None:
    assert {suite.objective for suite in ObjectiveSuite.__subclasses__()} >= set(OBJECTIVES.built_in)
