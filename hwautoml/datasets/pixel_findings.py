"""What was done to the pixels of files that are not plain 8-bit pictures of one kind, said in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from hwautoml.core.finding import Finding
from hwautoml.core.pixel_rule import PixelRule
from hwautoml.datasets.decoding import PictureFacts
from hwautoml.datasets.probing import Probe

NUM_EXAMPLES = 3


def pixel_findings(names: Sequence[str], facts: Sequence[PictureFacts | None], probe: Probe) -> list[Finding]:
    """``names[i]`` is the file that ``facts[i]`` are of; None where it could not be read."""
    known = [(name, fact) for name, fact in zip(names, facts, strict=True) if fact is not None]
    questions: list[tuple[str, Callable[[PictureFacts], bool], str]] = [
        ("deep", lambda fact: fact.is_deep, _levels_text(probe.rule)),
        ("alpha", lambda fact: fact.has_alpha, f"their transparent parts are shown on {_ground(probe.rule)}"),
        ("animated", lambda fact: fact.has_more, "the first picture of each is used"),
        ("cmyk", lambda fact: fact.mode == "CMYK", "turned into RGB by Pillow's formula, without a colour profile"),
    ]
    if probe.channels == 3 and any(fact.channels == 3 for _, fact in known):
        questions.append(("grey-among-colour", lambda fact: fact.channels == 1, "their three channels are alike"))
    findings = []
    for kind, belongs, rule in questions:
        found = [name for name, fact in known if belongs(fact)]
        if found:
            text = f"{len(found):,} of {len(names):,} images {_WHAT[kind]}: {rule}"
            findings.append(
                Finding("note", kind, text, count=len(found), examples=tuple((n,) for n in found[:NUM_EXAMPLES]))
            )
    return [*findings, *_mixed_depths(known), *_mixed_sizes([fact for _, fact in known])]


_WHAT = {
    "deep": "have more than 8 bits a pixel",
    "alpha": "are transparent in places",
    "animated": "are animations, or hold several pictures",
    "cmyk": "are CMYK, made for printing",
    "grey-among-colour": "are grey, the others in colour",
}


def _levels_text(rule: PixelRule) -> str:
    if rule.levels is None:
        return "they cannot be scaled, for their range is not known"
    return f"their values {rule.levels[0]:g} to {rule.levels[1]:g} become 0 to 255"


def _ground(rule: PixelRule) -> str:
    return {255: "white", 0: "black"}.get(rule.background, "grey")


def _mixed_depths(known: Sequence[tuple[str, PictureFacts]]) -> list[Finding]:
    deep = [name for name, fact in known if fact.is_deep]
    if not deep or len(deep) == len(known):
        return []
    plain = next(name for name, fact in known if not fact.is_deep)
    message = f"{len(deep):,} images have more than 8 bits a pixel and {len(known) - len(deep):,} have 8"
    fix = "save all of them alike: their brightness may tell which file a picture is from, and not what it shows"
    return [Finding("warn", "mixed-depths", message, fix, len(deep), ((deep[0],), (plain,)))]


def _mixed_sizes(facts: Sequence[PictureFacts]) -> list[Finding]:
    sizes = Counter((fact.width, fact.height) for fact in facts)
    if len(sizes) < 2:
        return []
    shapes = sorted(sizes, key=lambda size: size[0] * size[1])
    (least, most) = shapes[0], shapes[-1]
    message = f"the images have {len(sizes):,} sizes, {least[0]}x{least[1]} to {most[0]}x{most[1]} pixels"
    return [Finding("note", "mixed-sizes", message, count=len(sizes))]
