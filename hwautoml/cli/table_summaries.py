"""Latency tables as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hwautoml.cli.console import Summary, escape_markup
from hwautoml.cli.summaries import _print_pairs, _table

if TYPE_CHECKING:
    from rich.console import Console


def summary_of(result: Mapping[str, Any]) -> Summary:
    """The one that fits what ``profile`` did."""
    if "first" in result:
        return comparison_summary
    if "csv" in result:
        return export_summary
    return inspection_summary if "most_ms" in result else profile_summary


def profile_summary(out: Console, facts: Mapping[str, Any]) -> None:
    conditions = facts["conditions"]
    counts = {name: facts[f"num_{name}"] for name in ("measured", "inferred", "estimated")}
    rows = [
        ("table", facts["path"]),
        ("of", f"{facts['space']} on {facts['target']}, {facts['runtime']} {facts['runtime_version'] or ''}".rstrip()),
        ("", f"{facts['num_threads']} thread(s), batch {facts['batch']}, {facts['precision']}"),
        ("origin", _origin_text(facts)),
        ("layers", ", ".join(f"{count} {name}" for name, count in counts.items() if count)),
        ("networks", f"{facts['num_networks']} measured"),
        ("check", _check_text(facts["holdout"])),
        ("noise", "unknown" if facts["noise_floor"] is None else f"{facts['noise_floor']:.1%} of a sample (measured)"),
    ]
    machine = [str(conditions[name]) for name in ("cpu", "date", "source") if conditions.get(name)]
    if machine:
        rows.append(("conditions", ", ".join(machine)))
    if conditions.get("siblings"):
        rows.append(("siblings", ", ".join(f"{s['target']} ({s['runtime']})" for s in conditions["siblings"])))
    _print_pairs(out, rows)


def inspection_summary(out: Console, result: Mapping[str, Any]) -> None:
    profile_summary(out, result)
    out.print(f"[bold]overhead[/bold]  {result['overhead_ms']:.4g} ms a call")
    for title, rows in (
        ("most expensive layers", result["most_ms"]),
        (f"largest shares of the time of {result['shares_over']}", result["most_share"]),
    ):
        where = "inside a network, " if result["num_networks"] else ""
        out.print(f"\n[bold]{escape_markup(title)}[/bold] ({where}by the table)")
        table = _table("layer", "ms", "95 % +-", "share", "origin")
        for row in rows:
            table.add_row(
                _short(row["key"]),
                f"{row['ms']:.4g}",
                f"{1.96 * row['deviation_ms']:.2g}",
                f"{row['share']:.1%}",
                row["origin"],
            )
        out.print(table)
    if "picture" in result:
        out.print(f"picture   {escape_markup(result['picture'])}")


def comparison_summary(out: Console, result: Mapping[str, Any]) -> None:
    for name in ("first", "second"):
        facts = result[name]
        out.print(f"[bold]{name:<7}[/bold] {escape_markup(facts['path'])}  {_origin_text(facts)}")
    lacking = [f"{len(result[key])} only in the {key[5:]}" for key in ("only_first", "only_second") if result[key]]
    _print_pairs(
        out,
        [
            ("differ in", "; ".join(result["differences"]) or "nothing that they are of"),
            (
                "level",
                f"second is {result['level_ratio']:.4g} times first (median, {result['num_networks']} random "
                "networks, predicted)",
            ),
            ("ranking", f"Spearman {result['spearman']:.4f}, correlation {result['correlation']:.4f}"),
            (
                "apart",
                f"{result['median_difference_at_level']:.1%} at the median once levels agree; "
                f"{result['share_apart']:.0%} of networks by more than both 95 % intervals allow",
            ),
            ("layers", ", ".join([f"{result['num_layers_in_both']} in both", *lacking])),
        ],
    )
    out.print("\n[bold]layers that differ most[/bold] (ratio: second over first, once levels agree)")
    table = _table("layer", "first ms", "second ms", "ratio", "origins")
    for row in result["layers"]:
        table.add_row(
            _short(row["key"]),
            f"{row['first_ms']:.4g}",
            f"{row['second_ms']:.4g}",
            f"{row['ratio_at_level']:.3g}",
            f"{row['first_origin']}, {row['second_origin']}",
        )
    out.print(table)
    if "picture" in result:
        out.print(f"picture {escape_markup(result['picture'])}")


def export_summary(out: Console, result: Mapping[str, Any]) -> None:
    _print_pairs(
        out,
        [
            ("networks", f"{result['num_networks']} ONNX files in {result['folder']} (its README.md says how to time)"),
            ("fill in", result["csv"]),
            ("then", result["next"]),
        ],
    )


def _short(key: str) -> str:
    """Without schema, precision and batch, which all layers of a table share."""
    return escape_markup("/".join(key.split("/")[1:-2]))


def _origin_text(facts: Mapping[str, Any]) -> str:
    if facts["origin"] == "estimated":
        return "ESTIMATED: nothing was measured on this target"
    return "measured" if facts["num_measured"] else "measured networks correct inferred layers (few-shot)"


def _check_text(holdout: Mapping[str, Any] | None) -> str:
    if not holdout:
        return "none"
    how = holdout.get("method", "predicted before measured")
    return (
        f"{holdout['mean_relative_error']:.1%} mean error on {holdout['num_networks']} unseen networks ({how}), "
        f"{holdout['share_within_interval']:.0%} within the 95 % interval"
    )
