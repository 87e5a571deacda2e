"""Share of validation images whose class is predicted."""

from hwautoml.core.objective import SHARE, Objective
from hwautoml.objectives.base import Definition

DEFINITION = Definition(
    Objective("accuracy", SHARE, "maximize", "scored"),
    scored=lambda outcome: outcome.accuracy,
)
