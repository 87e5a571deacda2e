from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwautoml.core.form import Form
from hwautoml.core.target import PRECISIONS
from hwautoml.errors import InvalidValueError

RUNTIMES = st.sampled_from(["tvm", "torch", "torch-inductor", "onnxruntime", "onnxruntime-cuda"])


@given(RUNTIMES, st.sampled_from(PRECISIONS))
def test_names_and_json_lead_back_to_the_form(runtime: str, precision: str) -> None:
    form = Form(runtime, precision)
    assert Form.of_name(form.name) == form == Form.from_json(form.to_json())


def test_fp32_is_not_named() -> None:
    assert [str(Form("tvm")), str(Form("tvm", "int8"))] == ["tvm", "tvm-int8"]


@pytest.mark.parametrize(("runtime", "precision"), [("", "fp32"), ("tvm", "fp8")])
def test_what_is_no_form(runtime: str, precision: str) -> None:
    with pytest.raises(InvalidValueError, match="a form is a runtime"):
        Form(runtime, precision)
