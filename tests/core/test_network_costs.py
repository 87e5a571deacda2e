import numpy as np
import pytest

from hwautoml.core.network_costs import CostTable
from hwautoml.core.networks import Networks
from hwautoml.errors import InvalidValueError
from hwautoml.spaces import load_space

SPACES = [load_space("mobile", image_size=32, channels=3, num_outputs=10), load_space("nasbench201")]


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_costs_of_many_are_the_total_costs_of_each(space) -> None:
    encodings = np.random.default_rng(0).integers(0, space.num_options, (60, len(space.choices)))
    found = CostTable(space).costs(encodings)
    expected = [space.total_cost(space.decode(row)) for row in encodings]
    for name, values in vars(found).items():
        assert values.tolist() == [getattr(cost, name) for cost in expected], name


def test_costs_of_none() -> None:
    assert CostTable(SPACES[0]).costs(np.empty((0, len(SPACES[0].choices)), dtype=np.int64)).macs.shape == (0,)


def test_networks_without_a_target_have_costs_and_no_latency() -> None:
    networks = Networks(np.zeros((2, len(SPACES[0].choices)), dtype=np.int64), CostTable(SPACES[0]))
    assert len(networks) == 2 and networks.costs.macs.tolist() == [SPACES[0].total_cost(SPACES[0].smallest()).macs] * 2
    with pytest.raises(InvalidValueError, match="there is none"):
        _ = networks.latency_ms
