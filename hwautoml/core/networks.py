"""Many networks of a space of which nothing is known but their architectures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.latency_predictor import Latencies
from hwautoml.core.network_costs import CostTable, NetworkCosts
from hwautoml.core.space import SearchSpace
from hwautoml.errors import InvalidValueError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Networks:
    """``encodings`` (n, num_choices) are option indices; figures are computed when they are first asked for.

    ``latencies`` predicts for one target; None where there is none.
    """

    encodings: NDArray[np.int64]
    cost_table: CostTable
    latencies: Latencies | None = None

    def __len__(self) -> int:
        return len(self.encodings)

    @property
    def space(self) -> SearchSpace:
        return self.cost_table.space

    @cached_property
    def costs(self) -> NetworkCosts:
        """MACs, parameters, bytes, ... each (n,): analytic, the same on every device."""
        return self.cost_table.costs(self.encodings)

    @cached_property
    def latency_ms(self) -> tuple[Array, Array]:
        """Predicted means (n,) and standard deviations (n,) on the target, each network in its fastest form.

        Raises:
            InvalidValueError: there is no target, so no latency table.
        """
        if self.latencies is None:
            raise InvalidValueError("latencies are predicted from a target's latency table, and there is none")
        return self.latencies(self.encodings)
