"""ONNX Runtime on the CPU: the model file is the artifact; graph optimisation happens when it is opened."""

from __future__ import annotations

from hwautoml.compilers._onnxruntime import FILE_NAME, PACKAGES, SOURCE_SUFFIX, OnnxRuntimeBackend
from hwautoml.compilers.base import Traits

TRAITS = Traits(
    name="onnxruntime",
    source_suffix=SOURCE_SUFFIX,
    file_name=FILE_NAME,
    packages=PACKAGES,
    opens_source_on=("cpu",),
    own_suffixes=(SOURCE_SUFFIX,),
    precisions=("fp32", "int8"),
    on_boards="agent",
    ships_as=FILE_NAME,
)
_BACKEND = OnnxRuntimeBackend(TRAITS)
unavailable_reason, version, start = _BACKEND.unavailable_reason, _BACKEND.version, _BACKEND.start
compile, open_model = _BACKEND.compile, _BACKEND.open_model
