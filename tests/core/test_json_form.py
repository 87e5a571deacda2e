from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwautoml.core.json_form import from_json, to_json
from hwautoml.errors import InvalidValueError


@dataclass(frozen=True)
class Part:
    share: float
    interval: tuple[float, float]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise InvalidValueError(f"share must be within 0..1, got {self.share}", fix="a smaller one")


@dataclass(frozen=True)
class Whole:
    name: str
    parts: tuple[Part, ...]
    by_name: Mapping[str, Part]
    best: Part | None = None


PARTS = st.builds(
    Part,
    st.floats(0, 1),
    st.tuples(st.floats(-9, 9), st.floats(-9, 9)),
    st.dictionaries(st.text(max_size=5), st.integers(-99, 99) | st.text(max_size=5) | st.none(), max_size=3),
)
WHOLES = st.builds(
    Whole,
    st.text(max_size=5),
    st.lists(PARTS, max_size=3).map(tuple),
    st.dictionaries(st.text(max_size=5), PARTS, max_size=3),
    st.none() | PARTS,
)


@given(WHOLES)
def test_json_leads_back_to_the_noun(whole: Whole) -> None:
    assert from_json(Whole, json.loads(json.dumps(to_json(whole))), "here") == whole


def test_numpys_numbers_and_paths_are_plain() -> None:
    part = Part(np.float64(0.5), (np.float32(1.0), 2.0), {"path": Path("a/b"), "counts": np.arange(3)})  # type: ignore[arg-type]
    assert to_json(part) == {"share": 0.5, "interval": [1.0, 2.0], "facts": {"path": "a/b", "counts": [0, 1, 2]}}


def test_fields_of_another_version_are_left_alone() -> None:
    assert from_json(Part, {"share": 0.5, "interval": [1, 2], "colour": "red"}, "here") == Part(0.5, (1, 2))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (5, "here: expected an object with the fields of Whole, got 5"),
        ({"name": "a", "parts": []}, "here: .*by_name"),
        ({"name": 3, "parts": [], "by_name": {}}, r"here: .*\$.name"),
        ({"name": "a", "parts": [{"share": "x", "interval": [1, 2]}], "by_name": {}}, r"here: .*\$.parts\[0\].share"),
        ({"name": "a", "parts": [{"share": 2, "interval": [1, 2]}], "by_name": {}}, "here: share must be within 0..1"),
        ({"name": "a", "parts": [{"share": 1, "interval": [1]}], "by_name": {}}, r"here: .*\$.parts\[0\].interval"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(data: object, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        from_json(Whole, data, "here")
