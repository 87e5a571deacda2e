"""Names of files in messages."""

from __future__ import annotations

from collections.abc import Sequence


def shown(name: str) -> str:
    """``name`` with whatever a terminal would act on, or cannot show, escaped: control characters, odd bytes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)


def first_of(names: Sequence[str], count: int = 5) -> str:
    """``a, b, c, ...``"""
    listed = ", ".join(shown(name) for name in names[:count])
    return f"{listed}, ..." if len(names) > count else listed
