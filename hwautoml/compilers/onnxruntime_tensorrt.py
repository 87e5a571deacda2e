"""ONNX Runtime with its TensorRT provider, CUDA for the rest: onnxruntime-gpu and TensorRT.

Not run on a GPU so far.
"""

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

RUNTIME = "onnxruntime-tensorrt"
_BACKEND = OnnxRuntimeBackend(RUNTIME, ("TensorrtExecutionProvider", "CUDAExecutionProvider"))
unavailable_reason, version, start = _BACKEND.unavailable_reason, _BACKEND.version, _BACKEND.start
compile_model, open_model = _BACKEND.compile_model, _BACKEND.open_model
