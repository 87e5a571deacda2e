"""Fused operations that a runtime launches, each with an overhead of its own."""

from hwautoml.core.objective import Objective
from hwautoml.objectives.base import Definition, exact

DEFINITION = Definition(
    Objective("num_kernels", "", "minimize", "known"),
    known=lambda networks: exact(networks.costs.num_kernels),
)
