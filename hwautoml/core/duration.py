"""Durations as people write them: ``90s``, ``20m``, ``1h30m``, or plain seconds."""

from __future__ import annotations

import re

from hwautoml.errors import InvalidValueError

#: A year: timeouts of the system have limits too.
MAX_SEC = 365 * 24 * 3600.0
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_PATTERN = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")


def parse_duration(text: str | float, name: str = "duration", *, may_be_zero: bool = False) -> float:
    """Seconds; ``name`` is what an error calls it: the option that was typed, say.

    Raises:
        InvalidValueError: no duration, or not one that ``require_duration`` takes.
    """
    fix = f"{name} 90s (or 20m, 1h30m)"
    match = _PATTERN.fullmatch(str(text).strip().lower())
    if match is None or not any(match.groups()):
        raise InvalidValueError(f"{name}: {str(text)!r} is no duration", fix=fix)
    seconds = sum(float(group or 0) * unit for group, unit in zip(match.groups(), _SECONDS.values(), strict=True))
    return _required(seconds, name, may_be_zero, fix)


def require_duration(seconds: float, name: str, *, may_be_zero: bool = False) -> float:
    """``seconds``, an argument called ``name``, if work can be given so much time.

    Raises:
        InvalidValueError: negative, not a number, longer than a year, or 0 where there is nothing to do in no time.
    """
    return _required(seconds, name, may_be_zero, f"{name}=90")


def _required(seconds: float, name: str, may_be_zero: bool, fix: str) -> float:
    if not (seconds > 0 or (may_be_zero and seconds == 0)):
        least = "not be negative" if may_be_zero else "be longer than 0 s"
        raise InvalidValueError(f"{name}: must {least}, got {seconds:g} s", fix=fix)
    if seconds > MAX_SEC:
        raise InvalidValueError(f"{name}: must be at most a year (8760h), got {seconds:g} s", fix=fix)
    return seconds


def format_duration(seconds: float) -> str:
    """``83`` to ``1m23s``."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
