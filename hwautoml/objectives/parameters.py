"""Numbers that training fits, batch normalisation folded into convolutions."""

from hwautoml.core.objective import Objective
from hwautoml.objectives.base import Definition, exact

DEFINITION = Definition(
    Objective("parameters", "", "minimize", "known"),
    known=lambda networks: exact(networks.costs.parameters),
)
