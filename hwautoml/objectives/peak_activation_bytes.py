"""Largest memory that one layer's activations take at a time, in fp32."""

from hwautoml.core.objective import Objective
from hwautoml.objectives.base import Definition, exact

DEFINITION = Definition(
    Objective("peak_activation_bytes", "bytes", "minimize", "known"),
    known=lambda networks: exact(networks.costs.peak_activation_bytes),
)
