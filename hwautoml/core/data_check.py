"""What ``hwautoml check`` says of labelled images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hwautoml.core import json_form
from hwautoml.core.finding import SEVERITIES, Finding

Verdict = Literal["refuse", "warn", "note", "fine"]


@dataclass(frozen=True)
class DataCheck:
    """``counts``: images by class, then by split. ``image_size`` (pixels) and ``channels`` are those of training, 0
    where the images could not be used at all. ``strict``: warnings make them unusable, too. ``page``: where the HTML
    page lies.
    """

    source: str
    counts: Mapping[str, Mapping[str, int]]
    image_size: int
    channels: int
    findings: tuple[Finding, ...]
    seconds: float
    strict: bool = False
    page: str | None = None

    @property
    def verdict(self) -> Verdict:
        """The worst of the findings."""
        found = {finding.severity for finding in self.findings}
        return next((severity for severity in SEVERITIES if severity in found), "fine")

    @property
    def objections(self) -> tuple[Finding, ...]:
        """What makes the images unusable."""
        return tuple(f for f in self.findings if f.severity == "refuse" or (self.strict and f.severity == "warn"))

    @property
    def num_images(self) -> int:
        return sum(sum(by_split.values()) for by_split in self.counts.values())

    def to_json(self) -> dict[str, Any]:
        return {
            **json_form.to_json(self),
            "verdict": self.verdict,
            "usable": not self.objections,
            "num_images": self.num_images,
        }


@dataclass(frozen=True)
class ShownPicture:
    """A picture as training sees it, a PNG file, and what to write below it."""

    png: bytes
    caption: str
