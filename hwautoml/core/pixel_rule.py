"""How the pixels of a file become the 8-bit ones that a network sees: found in training, kept by what ships."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hwautoml.errors import InvalidValueError

WHITE, BLACK, GREY = 255, 0, 128


@dataclass(frozen=True)
class PixelRule:
    """``levels``: the values of deep pictures (16 or 32 bits, floats) that become 0 and 255; None where the
    training images held none, whose range nobody knows then. ``background``: the grey level, 0..255, that
    transparent pixels are composed on.

    Raises:
        InvalidValueError: ``levels`` are not finite and rising, or ``background`` is no grey level.
    """

    levels: tuple[float, float] | None = None
    background: int = WHITE

    def __post_init__(self) -> None:
        if self.levels is not None:
            low, high = self.levels
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise InvalidValueError(f"`low < high` must hold for levels, but got {self.levels}")
        if not 0 <= self.background <= 255:
            raise InvalidValueError(f"background must be 0..255, got {self.background}")

    def to_json(self) -> dict[str, Any]:
        return {"levels": None if self.levels is None else list(self.levels), "background": self.background}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PixelRule:
        """What lacks the keys is from before there were any: no levels, white."""
        levels = data.get("levels")
        return cls(None if levels is None else (float(levels[0]), float(levels[1])), data.get("background", WHITE))
