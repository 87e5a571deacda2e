"""Energy of one inference in microjoules, estimated from what operations cost in a 45 nm process.

Figures: M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014. They say which of two
networks needs less, not what a meter would show.
"""

from hwautoml.core.networks import Networks
from hwautoml.core.objective import Objective
from hwautoml.objectives.base import Array, Definition, exact

PJ_PER_MAC = 3.7 + 0.9  # a product and a sum in fp32
PJ_PER_BYTE = 100 / 8  # 64 bits from a cache of 1 MB


def known(networks: Networks) -> tuple[Array, Array]:
    costs = networks.costs
    return exact((PJ_PER_MAC * costs.macs + PJ_PER_BYTE * costs.bytes_moved) / 1e6)


DEFINITION = Definition(Objective("energy_uj", "µJ", "minimize", "known"), known=known)
