import numpy as np
import pytest

from hwautoml.core.network_costs import CostTable
from hwautoml.core.networks import Networks
from hwautoml.objectives import load_objective
from hwautoml.spaces import load_space
from hwautoml.testing.objectives import ObjectiveSuite


class TestEnergy(ObjectiveSuite):
    objective = "energy_uj"


def test_energy_is_that_of_the_table() -> None:
    space = load_space("mobile", image_size=8, channels=1, num_outputs=10)
    cost = space.total_cost(space.smallest())
    networks = Networks(np.zeros((1, len(space.choices)), dtype=np.int64), CostTable(space))
    (value,), (deviation,) = load_objective("energy_uj").known(networks)
    assert value == pytest.approx((4.6 * cost.macs + 12.5 * cost.bytes_moved) / 1e6)
    assert deviation == 0
