"""Types of arguments: what they refuse ends with one line that names the option, and exit code 2."""

from __future__ import annotations

import argparse

from hwautoml.core.duration import parse_duration
from hwautoml.errors import InvalidValueError


def duration(text: str, *, may_be_zero: bool = False) -> float:
    """Seconds."""
    try:
        return parse_duration(text, may_be_zero=may_be_zero)
    except InvalidValueError as error:
        raise argparse.ArgumentTypeError(f"{error.message}; give 90s, 20m or 1h30m, say") from error


def tuning_time(text: str) -> float:
    """Seconds, or 0 for no tuning."""
    return duration(text, may_be_zero=True)
