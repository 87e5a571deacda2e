"""Everything a user can get wrong, or that can go wrong for a user, as one family.

Each class has its own process exit code (documented in ``docs/exit_codes.md``), so that
a script can tell a bad image folder from a limit that was missed. A message names the
value, what was expected, and - in ``fix`` - the command or change that helps.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HwAutoMLError(Exception):
    """Base of the family; ``str()`` is the message, followed by the fix when there is one."""

    exit_code = 1

    def __init__(self, message: str, *, fix: str | None = None) -> None:
        super().__init__(message if fix is None else f"{message}\n  fix: {fix}")
        self.message = message
        self.fix = fix


class InvalidValueError(HwAutoMLError):
    """An argument or a field of a file has a value outside what is allowed."""

    exit_code = 2


class UnknownNameError(InvalidValueError):
    """A name (backend, space, searcher, choice) that nothing here answers to."""

    def __init__(self, noun: str, name: str, known: Iterable[str], *, fix: str | None = None) -> None:
        super().__init__(f"unknown {noun} {name!r}; known: {', '.join(nearest_first(name, known)) or 'none'}", fix=fix)


class DatasetError(HwAutoMLError):
    """The labelled images cannot be used as they are."""

    exit_code = 3


class UnknownTargetError(UnknownNameError):
    """No ``targets/NAME.toml`` in any folder that was looked in."""

    exit_code = 4


class TargetUnavailableError(HwAutoMLError):
    """The target is known, but code cannot be run on it from this machine."""

    exit_code = 4


class InfeasibleLimitError(HwAutoMLError):
    """No architecture of the space can meet a limit on this target (predicted), or several limits together."""

    exit_code = 5


class LimitNotMetError(HwAutoMLError):
    """Candidates were built and measured, and none met the limit."""

    exit_code = 6


class ParityError(HwAutoMLError):
    """An exported or compiled model does not compute what the trained one computes."""

    exit_code = 7


class CompileError(HwAutoMLError):
    """A model file could not be read or compiled for the target."""

    exit_code = 8


class UnsupportedOperatorError(CompileError):
    """A runtime lacks an operator that the model uses."""


class MeasurementError(HwAutoMLError):
    """A measurement failed, or was too noisy to be written down."""

    exit_code = 9


class RunFolderError(HwAutoMLError):
    """A run folder, bundle, table or journal is missing, damaged or belongs to another run."""

    exit_code = 10


class MissingDependencyError(HwAutoMLError):
    """An optional package or system program is needed and not installed."""

    exit_code = 11


class RegressionError(HwAutoMLError):
    """A model is slower than a baseline (``bench --against``) or a bundle's promise (``verify``) allows."""

    exit_code = 12


class StorageError(HwAutoMLError):
    """A file could not be written (or read): the disk is full, or the place or its permissions do not allow it."""

    exit_code = 13

    def __init__(self, message: str, *, fix: str | None = None, is_full: bool = False) -> None:
        super().__init__(message, fix=fix)
        self.is_full = is_full


def nearest_first(name: str, known: Iterable[str]) -> list[str]:
    """Known names, the most similar to ``name`` first."""
    return sorted(known, key=lambda k: (-difflib.SequenceMatcher(None, name, k).ratio(), k))
