"""No weights at all: a network of a space is trained from random ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwautoml.core.elastic_space import ElasticSpace
from hwautoml.core.start_point import SCRATCH, SharedWeights

if TYPE_CHECKING:
    from torch import Tensor


class Scratch:
    point = SCRATCH

    def unavailable_reason(self) -> str | None:
        return None

    def weights(self, space: ElasticSpace, images: Tensor | None = None) -> SharedWeights:
        return {}


START = Scratch()
