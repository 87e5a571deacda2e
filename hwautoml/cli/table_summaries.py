"""Latency tables, and tuning records beside them, as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hwautoml.cli.console import escape_markup
from hwautoml.cli.summaries import _print_pairs, _table
from hwautoml.core.duration import format_duration

if TYPE_CHECKING:
    from rich.console import Console

    from hwautoml.core.table_facts import TableComparison, TableFacts, TableInspection
    from hwautoml.pipeline.tables.by_hand import NetworksToTime
    from hwautoml.pipeline.verbs.records import RecordsFacts
    from hwautoml.pipeline.verbs.tuning import TunedSpace


def facts_summary(out: Console, facts: TableFacts) -> None:
    of, conditions = facts.identity, facts.conditions
    counts = {"measured": facts.num_measured, "inferred": facts.num_inferred, "estimated": facts.num_estimated}
    rows = [
        ("table", str(facts.path)),
        ("of", f"{of.space} on {of.target}, {of.runtime} {facts.runtime_version or ''}".rstrip()),
        ("", f"{of.num_threads} thread(s), batch {of.batch}, {of.precision}"),
        ("origin", _origin_text(facts)),
        ("layers", ", ".join(f"{count} {name}" for name, count in counts.items() if count)),
        ("networks", f"{facts.num_networks} measured"),
        ("check", _check_text(facts.holdout)),
        ("noise", "unknown" if facts.noise_floor is None else f"{facts.noise_floor:.1%} of a sample (measured)"),
    ]
    machine = [str(conditions[name]) for name in ("cpu", "date", "source") if conditions.get(name)]
    if machine:
        rows.append(("conditions", ", ".join(machine)))
    if conditions.get("siblings"):
        rows.append(("siblings", ", ".join(f"{s['target']} ({s['runtime']})" for s in conditions["siblings"])))
    _print_pairs(out, rows)


def inspection_summary(out: Console, found: TableInspection) -> None:
    facts = found.facts
    facts_summary(out, facts)
    out.print(f"[bold]overhead[/bold]  {facts.overhead_ms:.4g} ms a call")
    for title, layers in (
        ("most expensive layers", found.most_ms),
        (f"largest shares of the time of {found.shares_over}", found.most_share),
    ):
        where = "inside a network, " if facts.num_networks else ""
        out.print(f"\n[bold]{escape_markup(title)}[/bold] ({where}by the table)")
        table = _table("layer", "ms", "95 % +-", "share", "origin")
        for layer in layers:
            deviation = f"{1.96 * layer.deviation_ms:.2g}"
            table.add_row(_short(layer.key), f"{layer.ms:.4g}", deviation, f"{layer.share:.1%}", layer.origin)
        out.print(table)
    if found.picture is not None:
        out.print(f"picture   {escape_markup(str(found.picture))}")


def comparison_summary(out: Console, found: TableComparison) -> None:
    for name, facts in (("first", found.first), ("second", found.second)):
        out.print(f"[bold]{name:<7}[/bold] {escape_markup(str(facts.path))}  {_origin_text(facts)}")
    only = {"first": found.only_first, "second": found.only_second}
    lacking = [f"{len(keys)} only in the {name}" for name, keys in only.items() if keys]
    level = f"second is {found.level_ratio:.4g} times first (median, {found.num_networks} random networks, predicted)"
    apart = (
        f"{found.median_difference_at_level:.1%} at the median once levels agree; "
        f"{found.share_apart:.0%} of networks by more than both 95 % intervals allow"
    )
    rows = [
        ("differ in", "; ".join(found.differences) or "nothing that they are of"),
        ("level", level),
        ("ranking", f"Spearman {found.spearman:.4f}, correlation {found.correlation:.4f}"),
        ("apart", apart),
        ("layers", ", ".join([f"{found.num_layers_in_both} in both", *lacking])),
    ]
    _print_pairs(out, rows)
    out.print("\n[bold]layers that differ most[/bold] (ratio: second over first, once levels agree)")
    table = _table("layer", "first ms", "second ms", "ratio", "origins")
    for layer in found.layers:
        times = (f"{layer.first_ms:.4g}", f"{layer.second_ms:.4g}", f"{layer.ratio_at_level:.3g}")
        table.add_row(_short(layer.key), *times, f"{layer.first_origin}, {layer.second_origin}")
    out.print(table)
    if found.picture is not None:
        out.print(f"picture {escape_markup(str(found.picture))}")


def export_summary(out: Console, found: NetworksToTime) -> None:
    rows = [
        ("networks", f"{found.num_networks} ONNX files in {found.folder} (its README.md says how to time)"),
        ("fill in", str(found.csv)),
        ("then", found.next),
    ]
    _print_pairs(out, rows)


def tune_summary(out: Console, found: TunedSpace) -> None:
    trials = f"{found.num_trials} in {format_duration(found.seconds)}, {found.num_candidates_left} left"
    again = "TVM tables measured before keep the times of before (docs/schedules.md says how to measure them anew)"
    rows = [
        ("space", f"{found.space}, {found.num_layers} layers"),
        ("functions", f"{found.num_recorded} of {found.num_functions} recorded (measured)"),
        ("candidates", trials),
        ("records", str(found.records)),
        ("next", again),
    ]
    _print_pairs(out, rows)


def records_summary(out: Console, found: RecordsFacts) -> None:
    out.print(str(found.records))
    for device in found.devices:
        out.print(f"\n{escape_markup(device.device)}")
        out.print(f"{device.num_functions} functions, {device.num_trials} trials, {device.num_crashed} crashed")
        table = _table("slowest functions", "us (measured)", "trials")
        for function in device.slowest:
            table.add_row(function.function, f"{function.time_us:.1f}", str(function.num_tried))
        out.print(table)


def _short(key: str) -> str:
    """Without schema, precision and batch, which all layers of a table share."""
    return escape_markup("/".join(key.split("/")[1:-2]))


def _origin_text(facts: TableFacts) -> str:
    if facts.origin == "estimated":
        return "ESTIMATED: nothing was measured on this target"
    return "measured" if facts.num_measured else "measured networks correct inferred layers (few-shot)"


def _check_text(holdout: Mapping[str, Any] | None) -> str:
    if not holdout:
        return "none"
    how = holdout.get("method", "predicted before measured")
    return (
        f"{holdout['mean_relative_error']:.1%} mean error on {holdout['num_networks']} unseen networks ({how}), "
        f"{holdout['share_within_interval']:.0%} within the 95 % interval"
    )
