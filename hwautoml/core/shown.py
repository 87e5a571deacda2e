"""Names that came from elsewhere, as text that files, pages and terminals can hold."""

from __future__ import annotations

import unicodedata

_JOINERS = "\u200c\u200d"  # within words of some scripts, and within emoji
_LAYOUT = "\n\t"


def shown(name: str) -> str:
    """One line of text: what is no UTF-8, ends a line or steers a terminal is written as an escape.

    Bytes of file names that are no UTF-8 (which Python keeps as lone surrogates) become ``\\xff``.
    """
    return name if _is_plain(name) else "".join(map(_escaped, name))


def shown_text(text: str) -> str:
    """The same for text of several lines, with tabs."""
    return text if _is_plain(text) else "".join(c if c in _LAYOUT else _escaped(c) for c in text)


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _escaped(character: str) -> str:
    if character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs":
        return character
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:
        return f"\\x{number - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
