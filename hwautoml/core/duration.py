"""Durations as people write them: ``90s``, ``20m``, ``1h30m``, or plain seconds."""

from __future__ import annotations

import re

from hwautoml.errors import InvalidValueError

_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_PATTERN = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")


def parse_duration(text: str | float) -> float:
    """Seconds.

    Raises:
        InvalidValueError: not a positive duration.
    """
    match = _PATTERN.fullmatch(str(text).strip().lower())
    if match is None or not any(match.groups()):
        raise InvalidValueError(f"{text!r} is no duration; expected e.g. 90s, 20m or 1h30m")
    seconds = sum(float(group or 0) * unit for group, unit in zip(match.groups(), _SECONDS.values(), strict=True))
    if seconds <= 0:
        raise InvalidValueError(f"a duration must be positive, got {text!r}")
    return seconds


def format_duration(seconds: float) -> str:
    """``83`` to ``1m23s``."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
