"""Multiply-accumulates of one inference; two floating point operations (FLOPs) each."""

from hwautoml.core.objective import Objective
from hwautoml.objectives.base import Definition, exact

DEFINITION = Definition(
    Objective("macs", "", "minimize", "known"),
    known=lambda networks: exact(networks.costs.macs),
)
