import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwautoml.core.objective import SHARE, Limit, Objective
from hwautoml.errors import InvalidValueError

LATENCY = Objective("latency_ms", "ms", "minimize", "measured")
ACCURACY = Objective("accuracy", SHARE, "maximize", "scored")
finite = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("direction", "limit", "value", "met"),
    [
        ("minimize", 1.0, 1.0, True),
        ("minimize", 1.0, 1.01, False),
        ("maximize", 0.9, 0.9, True),
        ("maximize", 0.9, 0.89, False),
        ("minimize", None, 1e9, True),
        ("minimize", 1.0, math.nan, False),
        ("maximize", 1.0, math.nan, False),
    ],
)
def test_limits_are_inclusive(direction, limit, value, met) -> None:
    assert Objective("latency", "ms", direction, "measured", limit).is_met(value) is met


@given(st.sampled_from([LATENCY, ACCURACY]), finite, finite)
def test_minimised_values_are_within_minimised_limits_where_the_limit_is_met(objective, limit, value) -> None:
    limited = objective.with_limit(limit)
    assert limited.is_met(value) == (limited.sign * value <= limited.minimised_limit)
    assert objective.minimised_limit == math.inf and objective.limit is None, "nouns are not changed"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("latency", "ms", "down", "known"), "direction must be minimize or maximize"),
        (("latency", "ms", "minimize", "guessed"), "source must be known, scored or measured"),
        (("latency", "ms", "minimize", "known", math.nan), "limit must be a finite number, got nan"),
        (("", "ms", "minimize", "known"), "name is a word"),
        (("a<b", "ms", "minimize", "known"), "name is a word"),
    ],
)
def test_what_is_no_objective_is_refused(fields, message) -> None:
    with pytest.raises(InvalidValueError, match=message):
        Objective(*fields)


@given(st.from_regex(r"[a-z]\w{0,9}", fullmatch=True), st.sampled_from(["<=", ">="]), finite)
def test_a_limit_is_read_as_it_is_written(name, relation, bound) -> None:
    limit = Limit.parse(f"  {name} {relation} {bound!r}")
    assert (limit.name, limit.relation, limit.bound) == (name, relation, bound)
    assert Limit.parse(str(limit)).bound == pytest.approx(bound, rel=1e-11, abs=0)


@pytest.mark.parametrize(
    "text", ["latency_ms", "latency_ms=5", "<=5", "a<=b", "a<=5 ms", "a<=nan", "a<=inf", "1<=a<=2", ""]
)
def test_what_is_no_limit_is_refused(text) -> None:
    with pytest.raises(InvalidValueError, match="limit"):
        Limit.parse(text)


def test_a_limit_in_the_wrong_direction_is_refused_and_the_right_one_named() -> None:
    with pytest.raises(InvalidValueError, match=r"accuracy is maximized, so it is limited by >=\n  fix: accuracy>=0.5"):
        ACCURACY.limited(Limit.parse("accuracy<=0.5"))
    assert LATENCY.limited(Limit.parse("latency_ms<=2")).limit == 2.0


@given(
    st.builds(
        Objective,
        st.from_regex(r"[a-z]\w{0,9}", fullmatch=True),
        st.text(max_size=5),
        st.sampled_from(["minimize", "maximize"]),
        st.sampled_from(["known", "scored", "measured"]),
        st.none() | finite,
    )
)
def test_an_objective_comes_back_from_json(objective) -> None:
    assert Objective.from_json(objective.to_json()) == objective


@pytest.mark.parametrize("data", [{}, {**LATENCY.to_json(), "direction": "down"}, {**LATENCY.to_json(), "limit": "1"}])
def test_other_json_is_refused(data) -> None:
    with pytest.raises(InvalidValueError, match="objective"):
        Objective.from_json(data)


def test_values_are_written_for_people() -> None:
    assert ACCURACY.text(0.9316) == "93.2%"
    assert LATENCY.text(0.31234) == "0.312 ms"
    assert Objective("parameters", "", "minimize", "known").text(20480.0) == "20,480"
