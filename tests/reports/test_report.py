import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from hwautoml.errors import InvalidValueError
from hwautoml.reports import report as report_module
from hwautoml.reports import sections
from hwautoml.reports.plot_data import MAX_POINTS, plot_data, plot_json
from hwautoml.reports.report import write_report
from hwautoml.reports.report_data import ReportData


class Page(HTMLParser):
    """Elements with their attributes, the text of scripts apart from that of the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.scripts, self._inside = "", [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag) -> None:
        self._inside = ""

    def handle_data(self, data) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data + " "

    @property
    def ids(self) -> set[str]:
        return {attributes["id"] for _, attributes in self.elements if attributes.get("id")}


@pytest.fixture
def html(data, tmp_path: Path) -> str:
    return write_report(data, tmp_path).html.read_text(encoding="utf-8")


def test_three_files_and_nothing_else(data, tmp_path: Path) -> None:
    files = write_report(data, tmp_path / "new" / "folder")
    assert {p.name for p in files.html.parent.iterdir()} == {"report.html", "front.png", "candidates.csv"}
    with Image.open(files.png) as image:
        assert image.format == "PNG" and image.width >= 800


def test_the_page_has_every_part(html: str) -> None:
    page = Page(html)
    expected = {"front", "prediction", "network", "confusion", "per-class", "candidates", "conditions"}
    assert expected | {"plot-front", "plot-prediction", "plot-confusion", "data"} <= page.ids
    text = re.sub(r"\s+", " ", page.text.replace("\xa0", " "))
    for part in (
        "91.7 %",
        "0.306 ms",
        "on cpu",
        "meets the limit of 0.32 ms",
        "0.300–0.315 ms",
        "faster than onnxruntime",
        "runs/photos/bundle",
        "depthwise block with attention",
        "16 → 32 channels, kernel 5, expansion 4, stride 2",
        "<script>alert('x')</script> taken for cat: 2 of 12",
        "versions tvm",
        "1 min",
        "78.2–97.1 % (36 images)",
        "measured",
        "predicted",
        "estimated",
        "33 of 36 test images right",
    ):
        assert part in text, part


def test_untrusted_text_stays_text(html: str) -> None:
    page = Page(html)
    assert len(page.scripts) == 3, "data, plotly, ours"
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert "<script>alert" not in html and "<img src=x" not in html
    shown = json.loads(page.scripts[0])
    assert shown["matrices"]["confusion"]["names"] == ["cat", "dog & fox", "<script>alert('x')</script>"]


def test_every_string_is_escaped(data, tmp_path: Path) -> None:
    """Each string of the data, replaced by a tag, stays out of the page's own tags."""
    evil = "<b class=evil>"
    for key in ("title", "target", "space"):
        data[key] = evil
    data["dataset"] |= {"name": evil, "classes": [evil] * 3, "counts": {evil: 3}, "skipped": [evil]}
    data["conditions"] = {evil: {evil: evil}}
    data["seconds"] = {evil: 1.0}
    for row in data["candidates"] + data["specialised"]:
        row["architecture_id"] = evil
    for row in data["candidates"]:
        row["values"] = {evil: evil}
    for row in data["specialised"]:
        row["measured"], row["predicted_form"] = {evil: row["measured"]["tvm"]}, evil
    data["winner"] |= {"architecture_id": evil, "runtime": evil, "bundle": evil}
    data |= {"metric": evil, "decision": evil}
    matrix = {"names": [evil] * 3, "counts": [[1] * 3] * 3}
    texts = dict.fromkeys(("identifier", "title", "lead", "list_title"), evil)
    data["figures"] = [{**texts, "matrix": matrix, "items": [evil], "head": [evil], "rows": [[evil]]}]
    page = Page(write_report(data, tmp_path).html.read_text(encoding="utf-8"))
    assert not [attributes for _, attributes in page.elements if "evil" in str(attributes.get("class"))]
    assert page.text.count(evil) > 20


def test_nothing_is_loaded(html: str) -> None:
    page = Page(html)
    links = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data", "poster")
    ]
    assert links == ["data:,"], "the empty icon, which keeps browsers from asking for one"
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style and "@import" not in style
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy and policy.startswith("default-src 'none';") and "http" not in policy
    assert "http" not in page.scripts[0] and "http" not in page.scripts[2]


PARTS = {"specialised": "prediction", "winner": "network", "figures": "confusion", "candidates": "candidates"}


@pytest.mark.parametrize("missing", [*PARTS, "seconds", "conditions", "limit_ms"])
def test_a_part_that_is_missing_is_left_out(data, missing: str, tmp_path: Path) -> None:
    del data[missing]
    page = Page(write_report(data, tmp_path).html.read_text(encoding="utf-8"))
    for part, section in PARTS.items():
        assert (section in page.ids) == (part != missing)
    assert ("Time per stage" in page.text) == (missing != "seconds")
    assert ("Measured under" in page.text) == (missing != "conditions")
    assert "None" not in page.text and "nan" not in page.text.lower().split()


def test_next_to_nothing(tmp_path: Path) -> None:
    """What there is after the data was read."""
    dataset = {"name": "digits", "classes": ["0", "1"]}
    start = {"title": "digits on cpu", "target": "cpu", "space": "s", "dataset": dataset}
    files = write_report(start, tmp_path)
    page = Page(files.html.read_text(encoding="utf-8"))
    assert "nothing chosen yet" in page.text and "conditions" in page.ids and "front" not in page.ids
    assert files.csv.read_text().startswith("architecture,on_front,")


def test_a_missed_limit_is_said(data, tmp_path: Path) -> None:
    data["limit_ms"] = 0.2
    data["winner"]["meets_limit"] = False
    text = Page(write_report(data, tmp_path).html.read_text(encoding="utf-8")).text
    assert "misses the limit of 0.2 ms" in text and "53.0 % over" in text


def test_csv(data, tmp_path: Path) -> None:
    data["candidates"][0]["latency_ms"] = float("nan")
    rows = list(csv.DictReader(write_report(data, tmp_path).csv.open(encoding="utf-8")))
    assert len(rows) == 8 and rows[0]["latency_ms"] == ""
    assert rows[4]["chosen"] == "1" and float(rows[4]["measured_tvm_ms"]) == pytest.approx(0.306)
    assert rows[1]["measured_tvm_ms"] == "" and rows[1]["stage0.block0.kernel"] == "3"


def test_many_candidates_are_thinned_but_never_the_front(data) -> None:
    rows = [{**data["candidates"][1], "architecture_id": f"{n:012x}", "latency_ms": 1 + n} for n in range(9000)]
    data["candidates"] += rows
    points = plot_data(ReportData.from_dict(data))["candidates"]
    assert len(points) <= MAX_POINTS + 4
    assert sum(p["front"] for p in points) == 4


def test_plot_data_holds_no_tag(data) -> None:
    assert not set("<>&") & set(plot_json(ReportData.from_dict(data)))


def test_a_failure_leaves_the_older_report_alone(data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write_report(data, tmp_path).html.read_bytes()

    def fail(*_: object) -> str:
        raise InvalidValueError("no page today")

    monkeypatch.setattr(report_module, "html_page", fail)
    with pytest.raises(InvalidValueError, match="no page today"):
        write_report(data, tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3, "no temporary file is left"


def test_importing_loads_neither_plotly_nor_matplotlib() -> None:
    import subprocess
    import sys

    code = "import sys, hwautoml.reports.report; print({'plotly', 'matplotlib'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_prediction_is_compared_with_the_form_that_it_is_about(data) -> None:
    """The measurement of another runtime, or of int8, says nothing of it."""
    data["specialised"][0] |= {"predicted_form": "onnxruntime"}
    page = sections.prediction(ReportData.from_dict(data))
    assert (page.count("+30.0 %"), page.count("+2.0 %")) == (1, 2), "onnxruntime once, tvm for the other two"


def test_what_the_winner_is_faster_than(data) -> None:
    own = data["specialised"][1]["measured"]
    own |= {"tvm-int8": {**own["tvm"], "median_ms": 0.2}, "onnxruntime": {**own["onnxruntime"], "median_ms": 0.4}}
    text = sections._other_runtimes(report := ReportData.from_dict(data), report.winner)
    assert "faster than onnxruntime" in text and "not chosen: tvm-int8" in text
    data["winner"] |= {"precision": "int8", "latency": {**data["winner"]["latency"], "median_ms": 0.2}}
    text = sections._other_runtimes(report := ReportData.from_dict(data), report.winner)
    assert "not chosen" not in text and "tvm-int8" not in text and "onnxruntime" in text and "tvm" in text
