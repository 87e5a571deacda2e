"""Names from elsewhere within Markdown: shown as they are, whatever they hold."""

from __future__ import annotations

import re

from hwautoml.core.shown import shown

_MARKS = re.compile(r"([\\`*\[\]|~#]|(?<!\w)_|_(?!\w))")  # within words an underscore is no mark


def plain(text: str) -> str:
    """Text that is neither markup nor HTML, on one line."""
    return without_html(_MARKS.sub(r"\\\1", shown(text)))


def without_html(text: str) -> str:
    """Text whose Markdown is meant, and whose HTML is not."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
