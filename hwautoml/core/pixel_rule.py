"""How the pixels of a file become the 8-bit ones that a network sees: found in training, kept by what ships."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from hwautoml.errors import InvalidValueError

WHITE, BLACK, GREY = 255, 0, 128
Fit = Literal["crop", "pad", "stretch"]
FITS: tuple[Fit, ...] = get_args(Fit)


@dataclass(frozen=True)
class PixelRule:
    """``levels``: the values of deep pictures (16 or 32 bits, floats) that become 0 and 255; None where the
    training images held none, whose range nobody knows then. ``background``: the grey level, 0..255, that
    transparent pixels are composed on. ``fit``: how a picture becomes a square: its centre, all of it between stripes
    of mid-grey, or all of it squeezed.

    Raises:
        InvalidValueError: ``levels`` are not finite and rising, ``background`` is no grey level, or an unknown fit.
    """

    levels: tuple[float, float] | None = None
    background: int = WHITE
    fit: Fit = "crop"

    def __post_init__(self) -> None:
        if self.levels is not None:
            low, high = self.levels
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise InvalidValueError(f"`low < high` must hold for levels, but got {self.levels}")
        if not 0 <= self.background <= 255:
            raise InvalidValueError(f"background must be 0..255, got {self.background}")
        if self.fit not in FITS:
            raise InvalidValueError(f"fit must be one of {', '.join(FITS)}, got {self.fit!r}")

    def to_json(self) -> dict[str, Any]:
        levels = None if self.levels is None else list(self.levels)
        return {"levels": levels, "background": self.background, "fit": self.fit}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PixelRule:
        """What lacks the keys is from before there were any: no levels, white, the centre."""
        levels = data.get("levels")
        return cls(
            None if levels is None else (float(levels[0]), float(levels[1])),
            data.get("background", WHITE),
            data.get("fit", "crop"),
        )
