"""How long-running verbs tell a listener how far they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """``share`` of the stage that is done, 0..1; 1 ends the stage."""

    stage: str
    share: float
    text: str = ""


OnProgress = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """The default listener."""
