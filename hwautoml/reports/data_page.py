"""The page of ``hwautoml check``: what was found, with pictures."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from importlib import resources

from hwautoml.core.data_check import DataCheck, ShownPicture
from hwautoml.core.finding import Finding
from hwautoml.reports.formatting import table, text

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_VERDICTS = {
    "refuse": "These images cannot be trained on as they are",
    "warn": "Look at this before training",
    "note": "Nothing stands in the way",
    "fine": "Nothing was found",
}
_PILLS = {"refuse": ("bad", "refused"), "warn": ("warn", "warning"), "note": ("open", "note")}


def data_page(check: DataCheck, pictures: Mapping[str, ShownPicture]) -> str:
    """Complete HTML that loads nothing and needs no script; ``pictures`` by the names in the findings' examples."""
    parts = {
        "title": text(f"{check.source}: images"),
        "style": _template("style.css") + _template("data.css"),
        "header": _header(check),
        "findings": "".join(_finding(finding, pictures) for finding in check.findings),
        "classes": _classes(check),
    }
    return _PLACEHOLDER.sub(lambda match: parts[match[1]], _template("data.html"))


def _template(name: str) -> str:
    return resources.files("hwautoml.reports").joinpath("templates", name).read_text(encoding="utf-8")


def _header(check: DataCheck) -> str:
    facts = "The images could not be read as a data set."
    if check.counts:
        kind = "grey" if check.channels == 1 else "colour"
        size = f"{check.image_size} × {check.image_size} pixels"
        facts = f"{check.num_images:,} images of {len(check.counts)} classes; looked at as {size} in {kind}."
    title = f"<h1><b>{_VERDICTS[check.verdict]}</b></h1>"
    return f"<p class='eyebrow'>{text(check.source)}</p>{title}<p class='lead'>{facts}</p>"


def _finding(finding: Finding, pictures: Mapping[str, ShownPicture]) -> str:
    css_class, word = _PILLS[finding.severity]
    fix = f"<p class='fix'><b>What helps:</b> {text(finding.fix)}</p>" if finding.fix else ""
    groups = "".join(_group(group, pictures) for group in finding.examples)
    shown = f"<div class='groups'>{groups}</div>" if groups else ""
    return (
        f"<section class='finding' id='{text(finding.kind)}'><p><span class='pill {css_class}'>{word}</span>"
        f"<code>{text(finding.kind)}</code></p><p class='message'>{text(finding.message)}</p>{fix}{shown}</section>"
    )


def _group(names: tuple[str, ...], pictures: Mapping[str, ShownPicture]) -> str:
    return f"<div class='group'>{''.join(_picture(name, pictures.get(name)) for name in names)}</div>"


def _picture(name: str, picture: ShownPicture | None) -> str:
    if picture is None:
        return f"<figure><div class='none'>no picture</div><figcaption>{text(name)}</figcaption></figure>"
    data = base64.b64encode(picture.png).decode("ascii")
    caption = f"{text(name)}<br><b>{text(picture.caption)}</b>"
    return f"<figure><img alt='' src='data:image/png;base64,{data}'><figcaption>{caption}</figcaption></figure>"


def _classes(check: DataCheck) -> str:
    if not check.counts:
        return ""
    splits = ("train", "val", "test")
    rows = [
        [text(name), *(f"{by_split.get(split, 0):,}" for split in splits), f"{sum(by_split.values()):,}"]
        for name, by_split in check.counts.items()
    ]
    return f"<section><h2>Classes</h2>{table(['class', *splits, 'all'], rows)}</section>"
