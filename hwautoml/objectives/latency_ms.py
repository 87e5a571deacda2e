"""Median time of one inference on the target, in the network's fastest form; predicted by latency tables."""

from hwautoml.core.objective import Objective
from hwautoml.objectives.base import Definition

DEFINITION = Definition(
    Objective("latency_ms", "ms", "minimize", "measured"),
    known=lambda networks: networks.latency_ms,
    measured=lambda measurement: measurement.median_ms,
)
