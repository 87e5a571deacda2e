"""Deployment: how fast what we compile runs, next to ONNX Runtime in the same run.

    python -m benchmarks.deploy schedules --threads 1 --batch 1 --tune 20s
    python -m benchmarks.deploy kernels
    python -m benchmarks.deploy int8

Each part prints one table and writes ``benchmarks/results/deploy_<part>.json``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import deploy_int8, deploy_schedules
from benchmarks.arguments import tuning_time

RESULTS = Path(__file__).parent / "results"
PARTS = {"schedules": deploy_schedules.schedules, "kernels": deploy_schedules.kernels, "int8": deploy_int8.int8}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--tune", type=tuning_time, default=20.0, help="per network (schedules); 0s: what is recorded")
    parser.add_argument("--records", type=Path, help="tuning records to read and add to [default: none kept]")
    parser.add_argument("--only", default="", help="comma-separated beginnings of network names [default: all]")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="file for the JSON [default: benchmarks/results/deploy_<part>…]")
    arguments = parser.parse_args(words)
    result = PARTS[arguments.part](arguments)
    out = arguments.out or RESULTS / f"deploy_{arguments.part}_t{arguments.threads}_b{arguments.batch}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print_table(result["rows"])
    for name, value in result.get("summary", {}).items():
        print(f"{name}: {value}")
    print(f"written: {out}")


def print_table(rows: list[dict[str, Any]]) -> None:
    """Columns as wide as their widest cell; numbers with three digits."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([_text(row.get(name, "")) for name in names] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(names))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
