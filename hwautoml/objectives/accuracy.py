"""The task's primary metric on validation images: in classification, the share of right answers."""

from hwautoml.core.objective import SHARE, Objective
from hwautoml.objectives.base import Definition

DEFINITION = Definition(
    Objective("accuracy", SHARE, "maximize", "scored"),
    scored=lambda outcome: outcome.accuracy,
)
