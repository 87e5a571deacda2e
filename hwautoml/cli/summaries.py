"""A verb's result as a person reads it, one function per subcommand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hwautoml.cli.console import escape_markup
from hwautoml.core.duration import format_duration
from hwautoml.core.interval import wilson_interval

if TYPE_CHECKING:
    from rich.console import Console

    from hwautoml.core.data_check import DataCheck
    from hwautoml.core.run_result import ParityFigures, RunResult
    from hwautoml.pipeline.verbs.inspecting import Diagnosis, KnownStarts
    from hwautoml.pipeline.verbs.reopening import ExportResult, ReportResult, SearchResult
    from hwautoml.pipeline.verbs.runner_building import BuildResult
    from hwautoml.pipeline.verbs.verifying import VerifyResult


def run_summary(out: Console, result: RunResult) -> None:
    latency, seconds = result.latency_ms, result.seconds
    rows = [("limit", f"{latency.limit:g} ms on {result.target}")]
    for runtime, figures in sorted(latency.by_runtime.items(), key=lambda item: item[1].median_ms):
        name = "latency" if runtime == result.runtime else ""
        rows.append((name, f"{_with_interval(figures.median_ms, figures.interval_ms, 'measured')} on {runtime}"))
    predicted = _with_interval(latency.predicted, latency.predicted_interval, latency.predicted_origin)
    by_stage = ", ".join(f"{name} {format_duration(s)}" for name, s in seconds.items() if name != "total" and s >= 0.5)
    rows += [
        ("", f"{predicted} on {_form(latency.predicted_runtime, latency.predicted_precision)}"),
        *_accuracy_rows(result),
        *([] if result.start is None else [("start", f"{result.start.name}: {result.start.reason}")]),
        ("network", _network_text(result)),
        ("parity", _parity_text(result.parity, result.task.decision)),
        ("precision", result.quantization.reason),
        ("time", f"{format_duration(seconds['total'])} of {format_duration(result.budget_sec)}: {by_stage}"),
        ("bundle", f"{result.bundle}   (try: python {result.bundle}/run.py IMAGE)"),
        ("report", result.report),
    ]
    _print_pairs(out, rows)


def _network_text(result: RunResult) -> str:
    """Finalists are also taken from beside the front: the supernet's scores, which make it, are not exact."""
    front, network = len(result.front), result.architecture.id
    if any(row.architecture_id == network for row in result.front):
        return f"{network}, one of {front} on the front"
    trained = len(result.finalists)
    return f"{network}, the best of {trained} trained further; not among the {front} on the predicted front"


def _accuracy_rows(result: RunResult) -> list[tuple[str, str]]:
    """The primary metric; of an accuracy with its interval, and with what it hides of rare classes."""
    name, test = result.task.metric, result.task.metrics.get("test", {})
    figures, num_images = f"{result.accuracy.test:.2%} test", result.dataset.counts.get("test", 0)
    if name == "accuracy" and num_images:
        low, high = wilson_interval(result.accuracy.test, num_images)
        figures += f" (95 % interval {low:.1%} to {high:.1%}, {num_images:,} images)"
    rows = [(name.replace("_", " "), f"{figures}, {result.accuracy.val:.2%} validation")]
    if "balanced_accuracy" in test:
        worst = [key.partition(":")[2] for key, value in test.items() if key.startswith("recall:")]
        worst = [of for of in worst if test[f"recall:{of}"] == test["worst_recall"]][:1]
        of = f" ({escape_markup(worst[0])})" if worst else ""
        rows.append(("", f"{test['balanced_accuracy']:.2%} balanced, worst recall {test['worst_recall']:.2%}{of}"))
    return rows


def _parity_text(parity: ParityFigures, decision: str) -> str:
    onnx = f"ONNX {_exponent(parity.onnx_max_abs)}"
    if not parity.int8:
        tvm = _exponent(parity.tvm_max_abs)
        return f"{onnx}, TVM {tvm}, same {decision} on {parity.top1_agreement:.1%} of {parity.num_images} images"
    between = parity.int8.get("between_runtimes")
    same = min(facts["top1_agreement"] for name, facts in parity.int8.items() if name != "between_runtimes")
    agreement = "" if between is None else f", its runtimes within {_exponent(between['max_abs'])} of each other"
    return f"fp32 {onnx}; int8 gives the same {decision} on {same:.1%} of {parity.num_images} images{agreement}"


def check_summary(out: Console, result: DataCheck) -> None:
    marks = {"refuse": "[red]refused[/red]", "warn": "[yellow]warning[/yellow]", "note": "[dim]note[/dim]   "}
    if result.counts:
        size = f"{result.image_size}x{result.image_size}, {'grey' if result.channels == 1 else 'colour'}"
        out.print(f"{result.num_images:,} images of {len(result.counts)} classes, looked at as {size}")
    for finding in result.findings:
        out.print(f"{marks[finding.severity]} {escape_markup(finding.message)}", soft_wrap=True)
        if finding.fix and finding.severity != "note":
            out.print(f"          {escape_markup(finding.fix)}", soft_wrap=True, style="dim")
    if not result.findings:
        out.print("nothing was found that should be known before training")
    if result.page is not None:
        out.print(f"pictures: {escape_markup(result.page)}", soft_wrap=True)


def search_summary(out: Console, result: SearchResult) -> None:
    further = [objective for objective in result.objectives if objective.name not in ("accuracy", "latency_ms")]
    names = [objective.name.replace("_", " ") for objective in further]
    columns = ["id", "accuracy (val)", f"latency ({result.latency_origin})", "on", *names]
    table = _table(*columns, "within the limits" if further else "within the limit")
    for row in result.front:
        table.add_row(
            row.id,
            f"{row.accuracy_val:.2%}",
            f"{row.latency_ms:.4g} +- {1.96 * row.latency_std_ms:.2g} ms",
            _form(row.runtime, row.precision),
            *(objective.text(row.objectives[objective.name]) for objective in further),
            "yes" if row.meets_limit else "no",
        )
    out.print(table)
    best = result.best
    text = "nothing scored is predicted to meet it" if best is None else f"best {best.id}, {best.accuracy_val:.2%}"
    limits = [f"limit {result.limit_ms:g} ms"]
    limits += [str(o.limit_at(o.limit)) for o in result.objectives if o.limit is not None and o.name != "latency_ms"]
    out.print(
        f"{escape_markup(result.target)}, {', '.join(limits)}: {text}; "
        f"{result.num_scored} scored, {result.num_new} of them new, {result.seconds:.1f} s"
    )


def _form(runtime: str, precision: str) -> str:
    return runtime if precision == "fp32" else f"{runtime}, {precision}"


def export_summary(out: Console, result: ExportResult) -> None:
    parity = f"{_exponent(result.parity.max_abs)} over {result.parity.num_images} images"
    _print_pairs(out, [("file", result.path), ("weights", result.weights), ("parity", parity)])


def compile_summary(out: Console, result: Mapping[str, Any]) -> None:
    parity = result["parity"]
    seconds = result["seconds"]
    _print_pairs(
        out,
        [
            ("library", result["path"]),
            (
                "functions",
                f"{result['functions']}, {result['tuned']} tuned, {len(result['fallbacks'])} on a fallback schedule",
            ),
            *([("by fixed rule", _untuned_text(result["untuned"]))] if result["untuned"] else []),
            ("fallbacks", ", ".join(result["fallbacks"]) or "none"),
            *([("kernels", result["device_code"])] if result["device_code"] else []),
            *([] if result["slow"] is None else [("far too slow", ", ".join(result["slow"]) or "none (measured)")]),
            *([("fp16 form", _half_text(result["half_parity"]))] if result["half_parity"] else []),
            (
                "parity",
                parity if isinstance(parity, str) else f"{_exponent(parity['max_relative'])} of the outputs' scale",
            ),
            ("time", f"compile {seconds['compile']:.1f} s, tune {seconds['tune']:.1f} s"),
        ],
    )


def _half_text(parity: Mapping[str, Any]) -> str:
    return f"{_exponent(parity['max_relative'])} of the outputs' scale from the file (on this machine's processor)"


def _untuned_text(names: Sequence[str]) -> str:
    return f"{len(names)} without a record (tune them: --tune 1m, or their whole space: hwautoml tune)"


def build_summary(out: Console, result: BuildResult) -> None:
    _print_pairs(
        out,
        [
            ("runner", f"{result.path}   (try: {result.path} BUNDLE IMAGE)"),
            ("for", f"{result.target} ({result.architecture}), built by {result.compiler}"),
            ("size", f"{result.size_mb:.1f} MB with TVM's runtime; copy the whole folder"),
        ],
    )


def bench_summary(out: Console, result: Mapping[str, Any]) -> None:
    batches = " and ".join(map(str, sorted({row["batch"] for row in result["rows"]})))
    origins = sorted({row["origin"] for row in result["rows"]})
    threads = result["rows"][0]["threads"]
    out.print(
        f"{escape_markup(result['target'])}, {threads} thread(s), batch {batches}: medians in ms with their 95 % "
        f"interval, all {' or '.join(origins)}; load in ms, memory and size in MB"
    )
    table = _table("artifact", "runtime", "median", "95 %", "p95", "images/s", "load", "peak", "size")
    for row in result["rows"]:
        low, high = row["interval_ms"]
        table.add_row(
            escape_markup(row["artifact"]) + (f" (batch {row['batch']})" if " " in batches else ""),
            row["runtime"],
            f"{row['median_ms']:.4g}",
            f"±{(high - low) / 2 / row['median_ms']:.1%}",
            _or_dash(row["p95_ms"], ".4g"),
            f"{row['throughput']:,.0f}",
            _or_dash(row["load_ms"], ".0f"),
            _or_dash(row["peak_memory_mb"], ".0f"),
            f"{row['size_mb']:.2f}",
        )
    out.print(table)
    for reason in result["skipped"]:
        out.print(f"skipped: {escape_markup(reason)}")
    if result["against"] is not None:
        _print_comparison(out, result["against"])


def _print_comparison(out: Console, against: Mapping[str, Any]) -> None:
    table = _table("artifact", "runtime", "against the baseline", "95 % interval", "machine itself", "")
    for row in against["rows"]:
        low, high = row["interval"]
        table.add_row(
            escape_markup(row["artifact"]),
            row["runtime"],
            f"{row['slower'] - 1:+.1%}",
            f"{low - 1:+.1%} to {high - 1:+.1%}",
            f"{row['machine_slower'] - 1:+.1%}",
            "[red]slower[/red]" if row["failed"] else "ok",
        )
    out.print(table)
    for name in against["not_in_baseline"]:
        out.print(f"not in the baseline: {escape_markup(name)}")


def verify_summary(out: Console, result: VerifyResult) -> None:
    colors = {"passed": "green", "failed": "red", "skipped": "yellow"}
    for check in result.checks:
        mark = f"[{colors[check.status]}]{check.status:<8}[/{colors[check.status]}]"
        out.print(f"  {mark} {check.name}: {escape_markup(check.detail)}", soft_wrap=True)


def report_summary(out: Console, result: ReportResult) -> None:
    _print_pairs(out, list(result.to_json().items()))


def targets_summary(out: Console, result: Mapping[str, Any]) -> None:
    if "targets" not in result:
        _print_pairs(out, [(name, str(value)) for name, value in result.items()])
        return
    table = _table("target", "kind", "runtimes", "works here", "description")
    for row in result["targets"]:
        works = "yes: " + ", ".join(row["usable_runtimes"]) if row["works_here"] else f"no: {row['reason']}"
        cells = (row["name"], row["kind"], ", ".join(row["runtimes"]), works, row["description"])
        table.add_row(*map(escape_markup, cells))
    out.print(table)


def starts_summary(out: Console, found: KnownStarts) -> None:
    table = _table("start", "at hand", "trained on", "pixels", "licence", "description")
    for start in found.starts:
        point = start.point
        at_hand = "yes" if start.reason is None else f"no: {start.reason}"
        pixels = "any" if point.native_resolution is None else str(point.native_resolution)
        words = (at_hand, point.trained_on or "-", pixels, point.licence or "-", point.description)
        table.add_row(point.name, *map(escape_markup, words))
    out.print(table)


def doctor_summary(out: Console, found: Diagnosis) -> None:
    cpu, cores = escape_markup(found.machine["cpu"]), found.machine["num_allowed_cores"]
    out.print(f"hwautoml {found.hwautoml} on {cpu}, {cores} cores")
    for check in found.checks:
        mark = "[green]ok[/green]     " if check.ok else "[yellow]missing[/yellow]"
        out.print(f"  {mark} {check.name}: {escape_markup(check.text)}")


def _print_pairs(out: Console, rows: list[tuple[str, str]]) -> None:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for name, text in rows:
        table.add_row(f"[bold]{name}[/bold]", escape_markup(str(text)))
    out.print(table)


def _with_interval(milliseconds: float, interval: Sequence[float], origin: str) -> str:
    return f"{milliseconds:.4g} ms ({origin}, 95 % {interval[0]:.4g} to {interval[1]:.4g})"


def _table(*columns: str) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _exponent(value: float | None) -> str:
    return "not checked" if value is None else f"{value:.1e}"


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
