"""Something about the images that a person should know before, or instead of, training on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["refuse", "warn", "note"]
#: From the worst to the mildest.
SEVERITIES: tuple[Severity, ...] = ("refuse", "warn", "note")


@dataclass(frozen=True)
class Finding:
    """``kind`` is for scripts, ``message`` and ``fix`` for people.

    ``examples``: files it was seen in, a few of ``count``; each inner tuple belongs together (copies of one picture).
    """

    severity: Severity
    kind: str
    message: str
    fix: str = ""
    count: int = 0
    examples: tuple[tuple[str, ...], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "severity": self.severity,
            "kind": self.kind,
            "message": self.message,
            "fix": self.fix,
            "count": self.count,
            "examples": [list(group) for group in self.examples],
        }


def worst_first(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))
