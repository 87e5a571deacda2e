"""The page as a browser shows it: headless Chromium, its log and the page after its scripts ran."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hwautoml.reports.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs headless Chromium; apt-get install chromium"),
]
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--enable-logging=stderr",
    "--virtual-time-budget=8000",  # lets the scripts' timers run out before the page is read
)


def shown(page: Path, profile: Path, *flags: str) -> str:
    """The document after its scripts ran, without their text. Fails on anything in the console."""
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *flags, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console, "\n".join(console)
    return re.sub(r"<script\b.*?</script>", "", done.stdout, flags=re.DOTALL)


def plot(document: str, identifier: str) -> str:
    """The drawn plot, up to the next section."""
    start = document.index(f'id="{identifier}"')
    return document[start : document.find("</section>", start)]


def test_plots_are_drawn(data, tmp_path: Path) -> None:
    document = shown(write_report(data, tmp_path).html, tmp_path / "profile")
    assert 'data-ready="yes"' in document
    front = plot(document, "plot-front")
    assert 'class="main-svg"' in front
    # 4 others, 4 on the front, 2 measured, 1 chosen.
    assert len(re.findall(r'class="point"', front)) == 11
    assert ">chosen</text>" in front and "limit 0.32 ms" in front
    assert 'class="main-svg"' in plot(document, "plot-prediction")
    assert len(re.findall(r'class="point"', plot(document, "plot-prediction"))) == 6


def test_class_names_are_shown_and_not_run(data, tmp_path: Path) -> None:
    document = shown(write_report(data, tmp_path).html, tmp_path / "profile")
    confusion = plot(document, "plot-confusion")
    assert "&lt;script&gt;ale" in confusion, "an axis label, shortened"
    assert "<script" not in confusion and "dog &amp; fox" in confusion


@pytest.mark.parametrize("num_classes", [2, 100])
def test_few_and_many_classes(data, num_classes: int, tmp_path: Path) -> None:
    names = data["dataset"]["classes"] = [f"species {n}" for n in range(num_classes)]
    counts = [[9 * (i == j) + ((i + j) % 7 == 0) for j in range(num_classes)] for i in range(num_classes)]
    data["figures"][0]["matrix"] = {"names": names, "counts": counts}
    document = shown(write_report(data, tmp_path).html, tmp_path / "profile")
    confusion = plot(document, "plot-confusion")
    assert 'class="hm"' in confusion and ">species 0<" in confusion
    labels = re.findall(r'class="[xy]tick"', confusion)
    assert 2 * min(num_classes, 20) <= len(labels) <= 80, "all of few, some of many"


@pytest.mark.parametrize("missing", [["specialised", "winner", "figures"], ["candidates"], ["limit_ms"]])
def test_parts_that_are_missing(data, missing: list[str], tmp_path: Path) -> None:
    for name in missing:
        del data[name]
    document = shown(write_report(data, tmp_path).html, tmp_path / "profile")
    assert 'data-ready="yes"' in document
    assert ('id="plot-front"' in document) == ("candidates" not in missing)


@pytest.mark.parametrize("limit_ms", [0.0001, 50.0])
def test_a_limit_far_from_every_candidate(data, limit_ms: float, tmp_path: Path) -> None:
    data["limit_ms"] = limit_ms
    document = shown(write_report(data, tmp_path).html, tmp_path / "profile")
    assert ("all within" if limit_ms > 1 else "all over") in plot(document, "plot-front")


def test_headings_sort(data, tmp_path: Path) -> None:
    """A script of the test's own clicks on "latency", twice."""
    files = write_report(data, tmp_path)
    click = (
        "<script>const heading = [...document.querySelectorAll('table.sortable th button')][3];"
        "const rows = () => [...document.querySelectorAll('table.sortable tbody tr')];"
        "const column = () => rows().map((row) => parseFloat(row.cells[3].textContent));"
        "heading.click(); const up = column(); heading.click(); const down = column();"
        "document.body.dataset.up = up; document.body.dataset.down = down;</script></body>"
    )
    page = tmp_path / "clicked.html"
    page.write_text(files.html.read_text(encoding="utf-8").replace("</body>", click), encoding="utf-8")
    document = shown(page, tmp_path / "profile")
    up, down = (re.search(rf'data-{name}="([^"]*)"', document) for name in ("up", "down"))
    assert up and down
    values = [float(v) for v in up[1].split(",")]
    assert values == sorted(values) and len(values) == 8
    assert [float(v) for v in down[1].split(",")] == values[::-1]


def test_a_dark_page_on_a_narrow_screen(data, tmp_path: Path) -> None:
    flags = ["--blink-settings=preferredColorScheme=0", "--window-size=500,900"]
    document = shown(write_report(data, tmp_path).html, tmp_path / "profile", *flags)
    assert "rgb(231, 233, 236)" in plot(document, "plot-front"), "the dark theme's text colour, in the plot"
