"""Commands that had another name, or were flags, in the release before: they say what they are now, and do it.

To be deleted with the next release, together with its tests and two lines in ``options``.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from typer.core import TyperGroup

FORMER_NAMES = {"devices": "boards"}
#: By command, then by flag: the present command, and how many of the words after the flag are its arguments.
FORMER_FLAGS: Mapping[str, Mapping[str, tuple[str, int]]] = {
    "profile": {
        "--inspect": ("tables inspect", 1),
        "--compare": ("tables compare", 2),
        "--merge": ("tables merge", 2),
        "--export-to": ("tables export", 1),
        "--from-csv": ("tables import", 1),
        "--estimate": ("tables estimate", 0),
    },
    "tune": {"--inspect": ("records inspect", 0), "--merge": ("records merge", 1)},
}


class ProgramWithFormerNames(TyperGroup):
    """Looks a command up under its present name."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        present = present_command(args)
        if present != args:
            sys.stderr.write(f"this is now: hwautoml {shlex.join(present)}\n")
        return super().resolve_command(ctx, present)


def present_command(words: Sequence[str]) -> list[str]:
    """``words`` as they are typed today; what no earlier release had is left as it is."""
    if not words:
        return []
    flags = FORMER_FLAGS.get(words[0], {})
    rest = [part for word in words[1:] for part in _at_equals(word, {*flags, "--measurements"})]
    used = next((flag for flag in flags if flag in rest), None)
    if used is not None:
        command, num_arguments = flags[used]
        arguments, others = _taken_out(rest, used, num_arguments)
        return [*command.split(), *arguments, *others]
    if words[0] == "profile" and _taken_out(rest, "--measurements", 1)[0] == ["0"]:  # nothing was measured
        return ["tables", "estimate", *_taken_out(rest, "--measurements", 1)[1]]
    return [FORMER_NAMES.get(words[0], words[0]), *words[1:]]


def _taken_out(words: Sequence[str], flag: str, num_arguments: int) -> tuple[list[str], list[str]]:
    """(what follows each ``flag``, everything else)."""
    arguments, others, left = [], [], list(words)
    while left:
        word = left.pop(0)
        if word == flag:
            arguments += left[:num_arguments]
            del left[:num_arguments]
        else:
            others.append(word)
    return arguments, others


def _at_equals(word: str, flags: set[str]) -> list[str]:
    """``--inspect=FILE`` as two words."""
    name, equals, value = word.partition("=")
    return [name, value] if equals and name in flags else [word]
