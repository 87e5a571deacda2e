from __future__ import annotations

import pytest

from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.observation import Entry
from hwautoml.core.table_identity import TableIdentity
from hwautoml.errors import InvalidValueError

IDENTITY = TableIdentity("cpu", "tvm", 2, 1, "fp32", "mobile/v1/32x32x3")


def test_a_table_has_the_identity_it_was_made_with() -> None:
    table = LatencyTable(IDENTITY, {}, Entry(0.1, 0.1))
    fields = (table.target, table.runtime, table.num_threads, table.batch, table.precision, table.space)
    assert TableIdentity(*fields) == IDENTITY and table.form == IDENTITY.form.name == "tvm"


def test_differences_name_field_value_and_wish() -> None:
    other = TableIdentity("rpi4", "tvm", 4, 1, "fp32", "mobile/v1/32x32x3")
    assert IDENTITY.differences(IDENTITY) == ()
    assert IDENTITY.differences(other) == ("target is 'cpu', needed 'rpi4'", "num_threads is 2, needed 4")
    assert IDENTITY.differences(other, ignoring=("target",)) == ("num_threads is 2, needed 4",)


def test_json_is_read_back_from_among_other_fields() -> None:
    assert TableIdentity.from_json({**IDENTITY.to_json(), "runtime_version": "1"}) == IDENTITY
    with pytest.raises(InvalidValueError, match="num_threads"):
        TableIdentity.from_json({**IDENTITY.to_json(), "num_threads": "two"})
    with pytest.raises(InvalidValueError, match="missing required field `space`"):
        TableIdentity.from_json({k: v for k, v in IDENTITY.to_json().items() if k != "space"})


def test_all_wrong_values_are_named() -> None:
    with pytest.raises(InvalidValueError, match="num_threads must be at least 1, got 0; batch must .* got -1; preci"):
        TableIdentity("cpu", "tvm", 0, -1, "fp8", "mobile/v1/32x32x3")
