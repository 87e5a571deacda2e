from __future__ import annotations

import pytest

from hwautoml.core.latency_table import Entry, LatencyTable
from hwautoml.core.table_identity import TableIdentity
from hwautoml.errors import InvalidValueError

IDENTITY = TableIdentity("cpu", "tvm", 2, 1, "fp32", "mobile/v1/32x32x3")


def test_a_table_has_the_identity_it_was_made_with() -> None:
    table = LatencyTable("cpu", "tvm", 2, 1, "fp32", "mobile/v1/32x32x3", {}, Entry(0.1, 0.1))
    assert TableIdentity.of(table) == IDENTITY


def test_differences_name_field_value_and_wish() -> None:
    other = TableIdentity("rpi4", "tvm", 4, 1, "fp32", "mobile/v1/32x32x3")
    assert IDENTITY.differences(IDENTITY) == ()
    assert IDENTITY.differences(other) == ("target is 'cpu', needed 'rpi4'", "num_threads is 2, needed 4")
    assert IDENTITY.differences(other, ignoring=("target",)) == ("num_threads is 2, needed 4",)


@pytest.mark.parametrize(
    ("identity", "command"),
    [
        (IDENTITY, "hwautoml profile --target cpu --space mobile --image-size 32 --runtime tvm --threads 2"),
        (
            TableIdentity("my-board", "onnxruntime", 1, 8, "int8", "mobile/v1/8x8x1"),
            "hwautoml profile --target my-board --space mobile --image-size 8 --channels grey --runtime onnxruntime "
            "--threads 1 --batch 8 --precision int8",
        ),
        (
            TableIdentity("cpu", "torch", 1, 1, "fp32", "ofa-mobilenetv3/v1/w1.2/224x224x3"),
            "hwautoml profile --target cpu --space ofa-mobilenetv3 --image-size 224 --runtime torch --threads 1",
        ),
    ],
)
def test_the_command_makes_such_a_table(identity: TableIdentity, command: str) -> None:
    assert identity.command == command


def test_all_wrong_values_are_named() -> None:
    with pytest.raises(InvalidValueError, match="num_threads must be at least 1, got 0; batch must .* got -1; preci"):
        TableIdentity("cpu", "tvm", 0, -1, "fp8", "mobile/v1/32x32x3")
