"""The page's parts as HTML, in the order in which they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hwautoml.core.form import Form
from hwautoml.core.task import Figure
from hwautoml.reports import formatting as fmt
from hwautoml.reports.network_drawing import drawing
from hwautoml.reports.plot_data import key_values, shown_candidates
from hwautoml.reports.report_data import CandidateRow, ReportData, SpecialisedRow, Winner

MAX_TABLE_ROWS = 200


def section(identifier: str, title: str, lead: str, body: str) -> str:
    return f"<section id='{identifier}'><h2>{title}</h2><p class='lead'>{lead}</p>{body}</section>"


def plot(identifier: str, label: str, css_class: str = "") -> str:
    inner = f"<div id='{identifier}' class='plot {css_class}' role='img' aria-label='{label}'></div>"
    return f"<div class='card'>{inner}</div>"


# The verdict


def header(data: ReportData) -> str:
    eyebrow = " · ".join(f"<span>{fmt.text(part)}</span>" for part in (data.dataset.name, data.target, data.space))
    return (
        f"<p class='eyebrow'>{eyebrow}</p><h1>{_headline(data)}</h1>"
        f"<p class='verdict'>{_verdict(data)}</p>{_cards(data)}"
    )


def _headline(data: ReportData) -> str:
    winner, target = data.winner, fmt.text(data.target)
    if winner is None:
        return fmt.text(data.title)
    accuracy = winner.accuracy_val if winner.accuracy_test is None else winner.accuracy_test
    kind = "validation" if winner.accuracy_test is None else "test"
    latency = fmt.milliseconds(winner.latency.median_ms).replace(" ", "&nbsp;")
    share = fmt.percent(accuracy).replace(" ", "&nbsp;")
    return f"<b>{share}</b> {kind} {fmt.text(data.metric)} at <b>{latency}</b> on {target}"


def _verdict(data: ReportData) -> str:
    if data.winner is None:
        size = sum(row.on_front for row in data.candidates)
        return (
            f"<span class='pill open'>nothing chosen yet</span> {len(data.candidates):,} candidates, {size} of them on "
            "the front. Figures below are predictions; nothing was exported and measured so far."
        )
    how = f"the median measured with {fmt.text(data.winner.runtime)}"
    if data.limit_ms is None:
        return f"<span class='pill open'>no limit set</span> Its latency is {how}."
    limit, margin = f"{data.limit_ms:g} ms", 1 - data.winner.latency.median_ms / data.limit_ms
    if data.winner.meets_limit is False:
        return (
            f"<span class='pill bad'>misses the limit of {limit}</span> No candidate met it. This is the nearest, "
            f"{fmt.percent(-margin)} over by {how}."
        )
    why = "" if data.winner.quantization is None else f" Precision: {fmt.text(data.winner.quantization)}"
    return f"<span class='pill good'>meets the limit of {limit}</span> {fmt.percent(margin)} to spare, by {how}.{why}"


def _cards(data: ReportData) -> str:
    winner = data.winner
    cards = []
    if winner is not None:
        cards += [_accuracy_card(data, winner), _latency_card(winner)]
        if (others := _other_runtimes(data, winner)) is not None:
            cards.append(("Runtime", fmt.text(winner.runtime), others))
        if {"parameters", "macs"} <= winner.costs.keys():
            macs = f"{fmt.count(winner.costs['macs'])} multiply-accumulates, counted"
            cards.append(("Parameters", fmt.count(winner.costs["parameters"]), macs))
    if data.seconds:
        total = data.seconds.get("total", sum(data.seconds.values()))
        budget = "no time budget set" if data.budget_seconds is None else f"budget {fmt.duration(data.budget_seconds)}"
        cards.append(("Whole run", fmt.duration(total), budget))
    html = "".join(
        f"<div><dt>{name}</dt><dd>{value}</dd><dd class='note'>{note}</dd></div>" for name, value, note in cards
    )
    bundle = ""
    if winner is not None and winner.bundle:
        bundle = f"<p class='bundle'>Ready to ship: <code>{fmt.text(winner.bundle)}</code></p>"
    return (f"<dl class='cards'>{html}</dl>" if cards else "") + bundle


def _accuracy_card(data: ReportData, winner: Winner) -> tuple[str, str, str]:
    validation, metric = f"validation {fmt.percent(winner.accuracy_val)}", fmt.text(data.metric)
    if winner.accuracy_test is None:
        return f"Validation {metric}", fmt.percent(winner.accuracy_val), "test images not looked at yet"
    notes = [validation]
    if winner.accuracy_test_interval is not None:
        low, high = winner.accuracy_test_interval
        num_images = int(data.dataset.counts.get("test", 0))
        notes.insert(0, f"95 %: {100 * low:.1f}–{fmt.percent(high)} ({num_images:,} images)")
    return f"Test {metric}", fmt.percent(winner.accuracy_test), "<br>".join(notes)


def _latency_card(winner: Winner) -> tuple[str, str, str]:
    p95 = "" if winner.latency.p95_ms is None else f"<br>95th percentile {fmt.milliseconds(winner.latency.p95_ms)}"
    interval = f"95 %: {fmt.interval_ms(winner.latency.interval_ms)}{p95}"
    return "Latency, measured", fmt.milliseconds(winner.latency.median_ms), interval


def _other_runtimes(data: ReportData, winner: Winner) -> str | None:
    own = next((row for row in data.specialised if row.architecture_id == winner.architecture_id), None)
    if own is None:
        return "default of the bundle"
    others = {n: m.median_ms for n, m in own.measured.items() if n != Form(winner.runtime, winner.precision).name}
    if not others:
        return "the only one measured"
    texts = {n: f"{fmt.text(n)} {fmt.milliseconds(ms)}" for n, ms in others.items()}
    slower = ", ".join(texts[n] for n, ms in others.items() if ms >= winner.latency.median_ms)
    faster = ", ".join(texts[n] for n, ms in others.items() if ms < winner.latency.median_ms)
    return "; ".join(filter(None, (slower and f"faster than {slower}", faster and f"not chosen: {faster}")))


# Plots


def front(data: ReportData) -> str:
    shown = shown_candidates(data)
    if not shown:
        return ""
    total = len(data.candidates)
    subset = f" {len(shown):,} of {total:,} candidates are drawn, all are in the CSV." if len(shown) < total else ""
    limit = "" if data.limit_ms is None else " Right of the dashed line is over the limit."
    lead = (
        "Each dot is a network. Up is more accurate on the validation images, left is faster; nothing beats the "
        f"networks on the line in both.{limit}{subset}"
    )
    title = f"{fmt.text(data.metric.capitalize())} against latency"
    return section("front", title, lead, plot("plot-front", title, "tall"))


def prediction(data: ReportData) -> str:
    if not any(row.measured and row.predicted_ms is not None for row in data.specialised):
        return ""
    fastest_first = sorted(data.specialised, key=lambda row: row.fastest[1].median_ms if row.fastest else 0.0)
    rows = [cells for row in fastest_first for cells in _measured_cells(row, data.predicted_runtime)]
    head = ("network", "runs on", "predicted", "measured", "95 % interval", "95th percentile", "off by", "in limit")
    lead = (
        "The few best candidates were fine-tuned, exported and measured on the target. On the diagonal the latency "
        "table was right; the band is ±10 %. Only the measurement decides."
    )
    if any(len(row.measured) > 1 for row in data.specialised):
        lead += " Each network is predicted in the form in which it was chosen; the others are there to compare."
    body = plot("plot-prediction", "Predicted against measured latency") + fmt.table(head, rows, "figures")
    return section("prediction", "Predicted and measured", lead, body)


def _measured_cells(row: SpecialisedRow, predicted_runtime: str | None) -> Iterator[list[str]]:
    """One list of cells per runtime; whether the limit is met is said for the fastest."""
    fastest = row.fastest[0] if row.fastest else None
    met = {True: "yes", False: "no", None: fmt.MISSING}[row.meets_limit]
    for runtime, latency in sorted(row.measured.items(), key=lambda item: item[1].median_ms):
        error = fmt.MISSING
        is_foretold = (row.predicted_form or predicted_runtime) in (None, runtime)
        if row.predicted_ms and is_foretold:
            error = f"{100 * (latency.median_ms / row.predicted_ms - 1):+.1f} %"
        yield [
            _identifier(row.architecture_id, row.chosen),
            fmt.text(runtime),
            fmt.milliseconds(row.predicted_ms) if is_foretold else fmt.MISSING,
            fmt.milliseconds(latency.median_ms),
            fmt.interval_ms(latency.interval_ms),
            fmt.milliseconds(latency.p95_ms),
            error,
            met if runtime == fastest else "",
        ]


def network(data: ReportData) -> str:
    if data.winner is None or not data.winner.blocks:
        return ""
    lead = (
        f"Network <code>{fmt.text(data.winner.architecture_id)}</code>, first layer to last. A bar is as wide as the "
        "layer has output channels; times are the latency table's, not measured one by one."
    )
    return section("network", "The chosen network", lead, drawing(data.winner.blocks))


def figures(data: ReportData) -> str:
    return "".join(_figure(figure) for figure in data.figures)


def _figure(figure: Figure) -> str:
    parts = []
    if figure.list_title:
        items = "".join(f"<li>{fmt.text(item)}</li>" for item in figure.items)
        numbered = f"<ol class='mistakes'>{items}</ol>" if items else ""
        parts.append(f"<h3>{fmt.text(figure.list_title)}</h3>{numbered}")
    if figure.rows:
        head, rows = map(fmt.text, figure.head), (map(fmt.text, row) for row in figure.rows)
        parts.append(fmt.table(head, rows, "figures"))
    body, identifier = f"<div>{''.join(parts)}</div>", fmt.text(figure.identifier)
    if figure.matrix is not None:
        body = f"<div class='side'>{plot(f'plot-{identifier}', fmt.text(figure.title), 'square')}{body}</div>"
    return section(identifier, fmt.text(figure.title), fmt.text(figure.lead), body)


# Tables


def candidates(data: ReportData) -> str:
    if not data.candidates:
        return ""
    ordered = sorted(data.candidates, key=_importance)[:MAX_TABLE_ROWS]
    measured = {row.architecture_id: row.fastest for row in data.specialised if row.fastest}
    rows = []
    for row in ordered:
        own = measured.get(row.architecture_id)
        deviation = "" if row.latency_std_ms is None else f" ± {fmt.significant(row.latency_std_ms, 2)}"
        rows.append(
            [
                _identifier(row.architecture_id, row.chosen),
                "front" if row.on_front else "",
                fmt.percent(row.accuracy_val),
                fmt.milliseconds(row.latency_ms) + deviation,
                fmt.text(row.origin),
                fmt.milliseconds(own[1].median_ms if own else None),
                fmt.text(_summary(row)),
            ]
        )
    more = len(data.candidates) - len(ordered)
    note = f" {more:,} more are in <code>candidates.csv</code>." if more else ""
    key = f" Architectures read: {fmt.text(_summary_key(ordered[0]))}, stage by stage." if ordered[0].values else ""
    lead = f"The chosen one and the front first, fastest on top; a click on a heading sorts.{key}{note}"
    head = ("network", "front", f"{fmt.text(data.metric)} (val)", "latency", "origin", "measured", "architecture")
    return section("candidates", "Candidates", lead, fmt.table(head, rows, "figures sortable"))


def _importance(row: CandidateRow) -> tuple[bool, bool, float]:
    return not row.chosen, not row.on_front, row.latency_ms if row.latency_ms is not None else float("inf")


def _identifier(architecture_id: str, chosen: bool) -> str:
    mark = " <span class='chosen' title='chosen'>★</span>" if chosen else ""
    return f"<code>{fmt.text(architecture_id)}</code>{mark}"


def _summary(row: CandidateRow) -> str:
    """Values grouped by the part of their names before the last dot: 32 | fused 1 16 | mbconv 2 48."""
    groups: dict[str, list[str]] = {}
    for name in key_values(row):
        groups.setdefault(name.rpartition(".")[0], []).append(str(row.values[name]))
    # Lines break between stages, never inside one.
    return " | ".join("\N{NO-BREAK SPACE}".join(values) for values in groups.values())


def _summary_key(row: CandidateRow) -> str:
    """What the groups of ``_summary`` hold, each kind of group once: resolution | kind depth width."""
    groups: dict[str, list[str]] = {}
    for name in key_values(row):
        group, _, rest = name.rpartition(".")
        groups.setdefault(group, []).append(rest)
    return " | ".join(dict.fromkeys(" ".join(names) for names in groups.values()))


# Conditions


def conditions(data: ReportData) -> str:
    rows = [[fmt.text(name), fmt.text(value)] for name, value in flatten(data.conditions)]
    dataset = [["name", fmt.text(data.dataset.name)]]
    dataset.append(["labels", fmt.text(data.dataset.labels or f"{len(data.dataset.classes)} classes")])
    dataset += [[f"{fmt.text(split)} images", f"{int(number):,}"] for split, number in data.dataset.counts.items()]
    if data.dataset.num_skipped:
        names = ", ".join(f"<code>{fmt.text(name)}</code>" for name in data.dataset.skipped)
        dataset.append(["skipped (unreadable)", f"{data.dataset.num_skipped:,}" + (f": {names}" if names else "")])
    halves = f"<div><h3>Data</h3>{_pairs(dataset)}</div>"
    halves += f"<div><h3>Measured under</h3>{_pairs(rows)}</div>" if rows else ""
    body = f"{_seconds(data.seconds)}<div class='halves'>{halves}</div>{_ORIGINS}"
    lead = "What was used, how long it took, and how sure it is."
    return section("conditions", "Where the figures come from", lead, body)


_ORIGINS = """<h3>Origin of a figure</h3><dl class='origins'>
<dt>measured</dt><dd>The exported model ran on the target, in a process of its own; median of many rounds, with the
interval that holds the true median 95 times in 100.</dd>
<dt>predicted</dt><dd>Summed from the target's latency table, whose entries were measured layer by layer and corrected
by whole networks. Validation accuracies of candidates are those of the shared weights, before fine-tuning.</dd>
<dt>estimated</dt><dd>Calculated from the device's datasheet or from the architecture alone; nothing ran.</dd></dl>"""


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as "outer inner"; lists in one line; long floats shortened."""
    pairs = []
    for name, value in values.items():
        label = f"{prefix}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            pairs += flatten(value, f"{label} ")
        elif value is not None:
            items = value if isinstance(value, list | tuple) else [value]
            pairs.append((label, ", ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in items)))
    return pairs


def _pairs(rows: list[list[str]]) -> str:
    return "<dl class='pairs'>" + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows) + "</dl>"


def _seconds(seconds: Mapping[str, float]) -> str:
    stages = {name: value for name, value in seconds.items() if name != "total" and value > 0}
    total = sum(stages.values())
    if not total:
        return ""
    bars = "".join(
        f"<div class='tone{index % 8}' style='flex-grow:{value / total:.5f}' title='{fmt.text(name)}: "
        f"{fmt.duration(value)}'></div>"
        for index, (name, value) in enumerate(stages.items())
    )
    legend = "".join(
        f"<li><i class='tone{index % 8}'></i>{fmt.text(name)} <b>{fmt.duration(value)}</b></li>"
        for index, (name, value) in enumerate(stages.items())
    )
    return f"<h3>Time per stage</h3><div class='timeline'>{bars}</div><ul class='legend'>{legend}</ul>"
