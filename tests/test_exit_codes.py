"""``docs/exit_codes.md`` says what ``errors.py`` does. To write it anew: python tests/test_exit_codes.py"""

import inspect
from pathlib import Path

from hwautoml import errors
from hwautoml.errors import HwAutoMLError

PAGE = Path(__file__).resolve().parent.parent / "docs" / "exit_codes.md"
INTRODUCTION = """\
# Exit codes

Every command of `hwautoml` ends with one of these codes, so that a script can tell a bad image
folder from a limit that was missed. The message on standard error names the value, what was
expected and, where there is one, the fix; with `--json`, standard output stays machine-readable.

| code | error | when |
|---|---|---|
| 0 | - | The command did what it was asked to do. |
"""
END = """\
| 130 | - | Interrupted (Ctrl-C); the message says how to resume. |
| 141 | - | The reader of the output went away (`| head`). |

In Python the same errors are classes of `hwautoml.errors`, all derived from `HwAutoMLError`; the
code is their `exit_code`. Code 2 is also given for a wrong option, as is usual for command lines,
and code 1 for a crash, which is a bug worth reporting.

This page is generated from `hwautoml/errors.py` by `python tests/test_exit_codes.py`; a test keeps it true.
"""


def family() -> list[type[HwAutoMLError]]:
    """Every class of the family, by code, in the order of the file."""
    members = [c for c in vars(errors).values() if inspect.isclass(c) and issubclass(c, HwAutoMLError)]
    return sorted(members, key=lambda c: c.exit_code)


def page() -> str:
    rows = [f"| {c.exit_code} | `{c.__name__}` | {_first_line(c)} |\n" for c in family()]
    return INTRODUCTION + "".join(rows) + END


def _first_line(error: type[HwAutoMLError]) -> str:
    return (inspect.getdoc(error) or "").split("\n\n")[0].replace("\n", " ").replace("``", "`")


def test_the_page_is_true() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python tests/test_exit_codes.py"


def test_codes_are_a_shells() -> None:
    for error in family():
        assert 1 <= error.exit_code < 126, f"{error.__name__}: 0 is success, from 126 on the shell's own"
        assert error.__doc__, f"{error.__name__} needs a docstring, it becomes its row of the page"


def test_a_subclass_shares_its_parents_code_or_has_its_own() -> None:
    """Two unrelated errors with one code could not be told apart by a script."""
    allowed = {frozenset({"UnknownTargetError", "TargetUnavailableError"})}  # both: the target cannot be used
    for first in family():
        for second in family():
            related = issubclass(first, second) or issubclass(second, first)
            pair = frozenset({first.__name__, second.__name__})
            assert related or pair in allowed or first.exit_code != second.exit_code, pair


def test_a_message_ends_with_its_fix() -> None:
    assert str(HwAutoMLError("No table.", fix="hwautoml profile")) == "No table.\n  fix: hwautoml profile"
    assert str(HwAutoMLError("No table.")) == "No table."
    assert errors.nearest_first("rpi3", ["cpu", "gpu", "rpi4"])[0] == "rpi4"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
