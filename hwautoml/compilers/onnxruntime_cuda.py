"""ONNX Runtime with its CUDA provider, from the package onnxruntime-gpu (not run on a GPU so far)."""

from __future__ import annotations

from hwautoml.compilers._onnxruntime import FILE_NAME, SOURCE_SUFFIX, OnnxRuntimeBackend, OnnxRuntimeModel

__all__ = [
    "FILE_NAME",
    "RUNTIME",
    "SOURCE_SUFFIX",
    "OnnxRuntimeModel",
    "compile_model",
    "open_model",
    "start",
    "unavailable_reason",
    "version",
]

RUNTIME = "onnxruntime-cuda"
_BACKEND = OnnxRuntimeBackend(RUNTIME, ("CUDAExecutionProvider",))
unavailable_reason, version, start = _BACKEND.unavailable_reason, _BACKEND.version, _BACKEND.start
compile_model, open_model = _BACKEND.compile_model, _BACKEND.open_model
