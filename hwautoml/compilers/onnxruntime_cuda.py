"""ONNX Runtime with its CUDA provider, from the package onnxruntime-gpu (not run on a GPU so far)."""

from __future__ import annotations

from hwautoml.compilers._onnxruntime import FILE_NAME, PACKAGES, SOURCE_SUFFIX, OnnxRuntimeBackend
from hwautoml.compilers.base import Traits

TRAITS = Traits(
    name="onnxruntime-cuda",
    source_suffix=SOURCE_SUFFIX,
    file_name=FILE_NAME,
    packages=PACKAGES,
    opens_source_on=("cuda",),
    places=("cuda",),
    precisions=("fp32", "int8"),
    cuda_precisions=("fp16",),
)
_BACKEND = OnnxRuntimeBackend(TRAITS, ("CUDAExecutionProvider",))
unavailable_reason, version, start = _BACKEND.unavailable_reason, _BACKEND.version, _BACKEND.start
compile, open_model = _BACKEND.compile, _BACKEND.open_model
