"""Damage of every kind to one file of a folder."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

KINDS = ("flipped", "truncated", "empty", "zeroed")
#: Instead of any value in a JSON file.
WRONG: list[Any] = [
    *(None, True, -1, 0, 2, 1.5, 10**6, 10**400, math.nan, math.inf),
    *("", "x" * 300, "\ud800", "../..", "/dev/zero", [], {}, [[]], [{}]),
]


def damage(path: Path, rng: np.random.Generator) -> str:
    """Done to the file at ``path``; says what."""
    data = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.6:
        content = json.loads(data)
        known = list(places(content))
        place, value = known[int(rng.integers(len(known)))], WRONG[int(rng.integers(len(WRONG)))]
        path.write_text(json.dumps(with_value(content, place, value)), encoding="utf-8")
        return f"{place} = {value!r:.20}"
    kind, changed, at = KINDS[int(rng.integers(len(KINDS)))], bytearray(data), int(rng.integers(len(data)))
    if kind == "flipped":
        for bit in rng.integers(8 * len(data), size=int(rng.integers(1, 9))):
            changed[bit // 8] ^= 1 << bit % 8
    elif kind == "zeroed":
        changed[at : at + 4096] = bytes(len(changed[at : at + 4096]))
    else:
        del changed[at if kind == "truncated" else 0 :]
    path.write_bytes(changed)
    return kind


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value within ``value``."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def with_value(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(content)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed
