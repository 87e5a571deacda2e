"""The contract of an objective: what it is called, and how its value is computed.

A file of this folder, or an entry point ``hwautoml.objectives`` of another package, holds one ``Definition``; see
docs/extending/objective.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.measurement import Measurement
from hwautoml.core.networks import Networks
from hwautoml.core.objective import Limit, Objective
from hwautoml.errors import InvalidValueError

Array = NDArray[np.float64]
Known = Callable[[Networks], tuple[Array, Array]]
"""Values (n,) of n networks and their standard deviations (n,), zero of what is exact."""


Outcome = Any
"""What the evaluation of a network leaves: what the journal keeps of its outputs for validation images, so that values
can be computed from it at any later time. In runs a ``core.task.Scored``: ``accuracy``, ``metrics`` by name, and the
task's raw ``outcome``."""


@dataclass(frozen=True)
class Definition:
    """An objective, and the functions that its source asks for.

    - ``known`` before training: ``known``.
    - ``scored`` on the outputs for validation images: ``scored``, a pure function of an outcome. It may return NaN of
      an outcome that says nothing about the objective.
    - ``measured`` on the target: ``measured``, from a measurement, and ``known``, which predicts it until then.

    Raises:
        InvalidValueError: a function is missing that the source asks for, or one is given that it has no use for.
    """

    objective: Objective
    known: Known | None = None
    scored: Callable[[Outcome], float] | None = None
    measured: Callable[[Measurement], float] | None = None

    def __post_init__(self) -> None:
        given = {name for name in ("known", "scored", "measured") if getattr(self, name) is not None}
        needed = {"known", "measured"} if self.objective.source == "measured" else {self.objective.source}
        if given != needed:
            raise InvalidValueError(
                f"objective {self.objective.name!r} is {self.objective.source}, so it is defined by "
                f"{' and '.join(sorted(needed))}, got {' and '.join(sorted(given)) or 'no function'}"
            )

    def limited(self, limit: Limit) -> Definition:
        """Raises InvalidValueError: see ``Objective.limited``."""
        return replace(self, objective=self.objective.limited(limit))


def exact(values: Array) -> tuple[Array, Array]:
    """What ``known`` returns of values (n,) that are no predictions."""
    return values, np.zeros(len(values))
