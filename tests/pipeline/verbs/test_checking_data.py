"""``check``: what the verb and its command say, and what the page shows."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hwautoml.errors import DatasetError
from hwautoml.pipeline import check
from hwautoml.pipeline.verbs.checking_data import require_usable
from tests.invoking import invoke


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """60 different pictures, one of them three times, and one with another label as well."""
    rng = np.random.default_rng(0)
    root = tmp_path / "photos"
    for name in ("cat <b>", "dog"):
        (root / name).mkdir(parents=True)
    for number in range(60):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        picture = coarse.resize((32, 32), Image.Resampling.BICUBIC)
        folder = root / ("cat <b>", "dog")[number % 2]
        picture.save(folder / f"{number}.png")
        if number == 4:
            picture.save(folder / "again.png")
            picture.save(folder / "and again.png")
        if number == 6:
            picture.save(root / "dog" / "six.png")
    return root


def test_findings_counts_and_verdict(photos: Path) -> None:
    found = check(photos)
    assert {f.kind for f in found.findings} == {"exact-copies", "contradicting-labels", "small-test"}
    assert found.verdict == "warn" and found.num_images == 63
    assert found.counts["dog"]["train"] + found.counts["dog"]["val"] + found.counts["dog"]["test"] == 31
    assert (found.image_size, found.channels, found.page) == (32, 3, None)
    require_usable(found)
    with pytest.raises(DatasetError, match="photos: .*copies of others, to the pixel.* \\(and 2 more\\)"):
        require_usable(check(photos, strict=True))


def test_images_that_cannot_be_used_are_a_finding(tmp_path: Path) -> None:
    found = check(tmp_path, page=tmp_path / "page.html")
    assert (found.verdict, found.findings[0].kind, found.counts) == ("refuse", "unusable", {})
    assert "it holds no images" in (tmp_path / "page.html").read_text(encoding="utf-8")
    with pytest.raises(DatasetError, match="it holds no images"):
        require_usable(found)


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attributes)["src"] or "")
        if tag not in ("img", "meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += f"{data} "


def test_the_page_shows_what_was_found(photos: Path, tmp_path: Path) -> None:
    found = check(photos, page=tmp_path / "out.html")
    assert found.page == str(tmp_path / "out.html")
    html = (tmp_path / "out.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(html)
    assert page.open == []
    assert "Look at this before training" in page.text
    for finding in found.findings:
        assert re.sub(r"\s+", " ", finding.message) in re.sub(r"\s+", " ", page.text)
    assert "cat <b>/again.png" in page.text and "<b>/again" not in html  # names are text, never markup
    assert len(page.images) == 7 and all(src.startswith("data:image/png;base64,") for src in page.images)
    assert "http" not in html.replace("http-equiv", "")


def test_the_command(photos: Path, tmp_path: Path) -> None:
    done = invoke("check", photos, "--json", "--page", tmp_path / "p.html")
    answer = json.loads(done.stdout)
    assert done.exit_code == 0 and answer["verdict"] == "warn" and answer["num_images"] == 63
    (copies,) = [f for f in answer["findings"] if f["kind"] == "exact-copies"]
    assert copies.keys() == {"severity", "kind", "message", "fix", "count", "examples"}
    assert copies["examples"][0] == ["cat <b>/4.png", "cat <b>/again.png", "cat <b>/and again.png"]
    people = invoke("check", photos)
    assert people.exit_code == 0 and "63 images of 2 classes" in people.stdout
    assert "warning" in people.stdout and "contradict each other" in people.stdout
    assert invoke("check", photos, "--strict").exit_code == 3
    refused = invoke("check", tmp_path / "p.html")
    assert refused.exit_code == 3 and "no source of labelled images" in refused.stdout
    grouped = invoke("check", photos, "--group", "**/{group}_*")
    assert grouped.exit_code == 3 and "no image matches the pattern of groups" in grouped.stdout


def test_names_that_are_no_text_reach_json_and_page_escaped(photos: Path, tmp_path: Path) -> None:
    copy = (photos / "dog" / "1.png").read_bytes()
    (photos / "dog" / "\udcff\x1b[2J.png").write_bytes(copy)
    found = check(photos, page=tmp_path / "p.html")
    assert r"dog/\xff\x1b[2J.png" in json.dumps(found.to_json()).replace("\\\\", "\\")
    assert r"dog/\xff\x1b[2J.png" in (tmp_path / "p.html").read_text(encoding="utf-8")
