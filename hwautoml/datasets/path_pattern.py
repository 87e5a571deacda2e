"""Patterns that find a class, a split or a group in a path: ``{label}/**``, ``**/{group}_frame*.png``."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from hwautoml.errors import InvalidValueError

_PARTS = re.compile(r"\{(\w*)\}|\*\*/|\*\*|\*|\?|[^{}*?]+|.")


@dataclass(frozen=True)
class PathPattern:
    """``*`` is anything but ``/``, ``**`` anything, ``?`` one character, ``{label}``, ``{split}`` and ``{group}`` what
    they name: as much of one part of the path as fits. The whole path has to match.

    Raises:
        InvalidValueError: braces that are unpaired, or hold another name, or the same one twice.
    """

    text: str

    def __post_init__(self) -> None:
        assert self._expression

    @cached_property
    def _expression(self) -> re.Pattern[str]:
        pieces, names = [], []
        for found in _PARTS.finditer(self.text):
            piece, name = found.group(0), found.group(1)
            if piece in ("{", "}") or (name is not None and name not in ("label", "split", "group")) or name in names:
                raise InvalidValueError(
                    f"{self.text!r} is no path pattern: {piece!r} in it",
                    fix="use *, ** and each of {label}, {split}, {group} at most once, as in '{label}/{group}_*.png'",
                )
            if name is not None:
                names.append(name)
                pieces.append(f"(?P<{name}>[^/]+)")
            else:
                pieces.append({"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(piece, re.escape(piece)))
        return re.compile("".join(pieces), re.DOTALL)

    @property
    def names(self) -> Collection[str]:
        return self._expression.groupindex

    def match(self, path: str) -> dict[str, str] | None:
        """What each name stands for in ``path``; None where the path does not match."""
        found = self._expression.fullmatch(path)
        return None if found is None else found.groupdict()
