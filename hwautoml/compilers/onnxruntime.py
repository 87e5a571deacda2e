"""ONNX Runtime on the CPU: the model file is the artifact; graph optimisation happens when it is opened."""

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

RUNTIME = "onnxruntime"
_BACKEND = OnnxRuntimeBackend(RUNTIME)
unavailable_reason, version, start = _BACKEND.unavailable_reason, _BACKEND.version, _BACKEND.start
compile_model, open_model = _BACKEND.compile_model, _BACKEND.open_model
