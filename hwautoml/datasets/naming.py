"""Names of files in messages."""

from __future__ import annotations

from collections.abc import Sequence

from hwautoml.core.shown import shown


def first_of(names: Sequence[str], count: int = 5) -> str:
    """``a, b, c, ...``, each as text that a terminal can show."""
    listed = ", ".join(shown(name) for name in names[:count])
    return f"{listed}, ..." if len(names) > count else listed
