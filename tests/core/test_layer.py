import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwautoml.core.layer import Layer
from hwautoml.errors import InvalidValueError

names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
words = st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)
counts = st.integers(min_value=0, max_value=10**6)
layers = st.builds(
    Layer,
    kind=names,
    in_channels=counts,
    height=counts,
    width=counts,
    out_channels=counts,
    kernel_size=counts,
    expansion=counts,
    stride=counts,
    activation=words,
    precision=words,
    batch=counts,
)


@given(layers)
def test_key_round_trip(layer: Layer) -> None:
    assert Layer.from_key(layer.key) == layer


@given(layers, layers)
def test_keys_are_equal_only_for_equal_layers(first: Layer, second: Layer) -> None:
    assert (first.key == second.key) == (first == second)


def test_key_reads_as_documented() -> None:
    layer = Layer("mbconv", 16, 32, 32, 24, kernel_size=5, expansion=4, stride=2)
    assert layer.key == "v1/mbconv/in16x32x32/out24/k5/e4/s2/relu/fp32/b1"


@pytest.mark.parametrize("text", ["", "mbconv", "v1/mbconv/in16x32/out24/k5/e4/s2/relu/fp32/b1", "v1/x y/in1x1x1"])
def test_text_that_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError, match="is no layer key; expected"):
        Layer.from_key(text)


def test_a_key_of_another_schema_is_refused_by_name() -> None:
    with pytest.raises(InvalidValueError, match="has schema v2, this version reads v1"):
        Layer.from_key("v2/mbconv/in16x32x32/out24/k5/e4/s2/relu/fp32/b1")
